"""Estimate a scenario from a log of requests: capacity, limits, failures, and what the log cannot tell."""
