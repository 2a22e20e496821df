"""Answers that were good once, kept for the time when no other can be had."""

from stormbreak.cache.memory import Cache, MemoryCache
from stormbreak.core.fallback import CachePolicy

# ---------------------------------------------------------------- the cache that a policy asks for


def open_cache(policy: CachePolicy) -> Cache:
    """Open it; raises ConfigurationError where its file cannot be used."""
    if policy.path is None:
        return MemoryCache(policy)
    from stormbreak.cache.sqlite import SqliteCache  # noqa: PLC0415 - SQLite only when needed

    return SqliteCache(policy.path, policy)
