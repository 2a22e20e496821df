"""A run while it goes: sending, counting, stopping."""
