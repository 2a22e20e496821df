"""Retries, limits and circuit breakers for any Python function."""
