"""The cache that a policy asks for."""

from stormbreak.cache.kept import Cache
from stormbreak.cache.memory import MemoryCache
from stormbreak.cache.sqlite import SqliteCache
from stormbreak.core.fallback import CachePolicy


def open_cache(policy: CachePolicy) -> Cache:
    """Open it; raises ConfigurationError where its file cannot be used."""
    return MemoryCache(policy) if policy.path is None else SqliteCache(policy.path, policy)
