"""Caches of good answers, used when no target can answer."""
