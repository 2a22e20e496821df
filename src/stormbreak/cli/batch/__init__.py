"""`stormbreak batch`: send a file of prompts to an API."""
