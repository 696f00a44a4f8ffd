"""Who uses the server: tenants with keys, what they may use, how much, and what they used."""
