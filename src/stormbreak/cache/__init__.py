"""Caches of good answers, used when no target can answer."""

from stormbreak.cache.memory import Cache, MemoryCache
from stormbreak.core.fallback import CachePolicy

# ---------------------------------------------------------------- cache for a policy


def open_cache(policy: CachePolicy) -> Cache:
    """Open the cache; raise ConfigurationError if its file cannot be used."""
    if policy.path is None:
        return MemoryCache(policy)
    from stormbreak.cache.sqlite import SqliteCache  # noqa: PLC0415 - SQLite only when needed

    return SqliteCache(policy.path, policy)
