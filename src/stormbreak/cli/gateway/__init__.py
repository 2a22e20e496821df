"""`stormbreak gateway`."""
