"""Retries, limits and circuit breakers for any Python function: not only LLM APIs have storms."""
