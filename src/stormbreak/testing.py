"""A provider for your own tests (lands with the provider)."""
