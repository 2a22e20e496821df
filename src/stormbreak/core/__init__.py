"""What to do about trouble: retries, breakers, limits, budgets, queues. Pure: decides, never acts."""
