"""What the two servers, a hub's and a runtime's, have in common: how they listen, what they bear, what they log."""
