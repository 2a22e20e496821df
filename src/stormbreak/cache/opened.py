"""The cache that a policy asks for."""

from stormbreak.cache.kept import Cache
from stormbreak.cache.memory import MemoryCache
from stormbreak.core.fallback import CachePolicy


def open_cache(policy: CachePolicy) -> Cache:
    """Open it; raises ConfigurationError where its file cannot be used."""
    if policy.path is None:
        return MemoryCache(policy)
    from stormbreak.cache.sqlite import SqliteCache  # noqa: PLC0415 - SQLite only when needed

    return SqliteCache(policy.path, policy)
