"""Answers kept in memory, for as long as the process lives."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from stormbreak.cache.kept import CacheEntry
from stormbreak.cache.key import SECRET_BYTES
from stormbreak.core.fallback import CachePolicy
from stormbreak.drivers.forks import reset_in_child
from stormbreak.drivers.locks import new_lock


class MemoryCache:
    """A cache of one process. `clock` tells unix epoch seconds."""

    blocks = False

    def __init__(self, policy: CachePolicy, *, clock: Callable[[], float] = time.time) -> None:
        self._policy = policy
        self._clock = clock
        self._lock = new_lock()
        self._answers: OrderedDict[bytes, CacheEntry] = OrderedDict()  # the oldest first
        self._bytes = 0
        self.secret = secrets.token_bytes(SECRET_BYTES)
        reset_in_child(self._count)

    def get(self, key: bytes) -> CacheEntry | None:
        """The answer of that key, unless it is too old."""
        with self._lock:
            kept = self._answers.get(key)
        fresh = kept is not None and self._clock() - kept.at < self._policy.max_age
        return kept if fresh else None

    def put(self, key: bytes, body: bytes) -> None:
        """Keep an answer; the oldest make room for it."""
        kept = CacheEntry(body, self._clock())
        with self._lock:
            self._drop(key)
            self._answers[key] = kept
            self._bytes += len(body)
            while self._bytes > self._policy.max_bytes:
                self._drop(next(iter(self._answers)))

    def close(self) -> None:
        """Forget all."""
        with self._lock:
            self._answers.clear()
            self._bytes = 0

    def _count(self) -> None:
        """Count anew in a child process: a thread of the parent may have been in the middle of it."""
        self._bytes = sum(len(kept.body) for kept in self._answers.values())

    def _drop(self, key: bytes) -> None:
        gone = self._answers.pop(key, None)
        if gone is not None:
            self._bytes -= len(gone.body)
