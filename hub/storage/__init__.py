"""What a hub stands on: tables for what is known, blobs for the bytes."""
