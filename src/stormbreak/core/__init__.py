"""Retries, breakers, limits, budgets, queues. Pure: it decides and never acts."""
