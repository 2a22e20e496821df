"""The capacity model of a provider (placeholder until the model lands)."""
