"""The hub in a browser: pages rendered here, without a build step and without anything from elsewhere."""
