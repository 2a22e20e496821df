"""The in-memory cache; and the entry, interface and keys of all caches."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple, Protocol

import msgspec

from stormbreak.core.fallback_policy import CachePolicy
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.llm.surrogates import UNREADABLE

# ---------------------------------------------------------------- entry and interface


class CacheEntry(NamedTuple):
    """The body of an answer, the provider's JSON, and the time it was stored (unix epoch seconds)."""

    body: bytes
    at: float

    def __repr__(self) -> str:
        return f"Kept({len(self.body)} bytes, {self.at})"


class Cache(Protocol):
    """Keeps the last answer for each key. Thread-safe; its errors never fail a call."""

    blocks: bool
    """Whether it may block on a disk."""

    @property
    def secret(self) -> bytes:
        """The secret of request digests: see `cache_key`."""

    def get(self, key: bytes) -> CacheEntry | None:
        """Return the answer for a key, unless it has expired."""

    def put(self, key: bytes, body: bytes) -> None:
        """Store an answer; delete the oldest to make room."""

    def close(self) -> None:
        """Release its resources; afterwards it stores and finds nothing."""


# ---------------------------------------------------------------- cache key
# A keyed digest of the server, the endpoint, the body (its model included) and the API key. Delivery
# options (`stream`) and the order of the body's fields do not count, since they do not change the
# answer. Without the secret, nobody can test whether a certain prompt was sent, or with which key.

SECRET_BYTES = 32
_DELIVERY = frozenset({"stream", "stream_options"})
_encode = msgspec.json.Encoder(order="sorted").encode


def cache_key(
    secret: bytes, base_url: str, endpoint: str, body: bytes, api_key: str | None
) -> bytes | None:
    """Return the key of an answer to `body`, 32 bytes; None for a body that is not a JSON object."""
    try:
        payload = msgspec.json.decode(body)
    except UNREADABLE:
        return None
    if not isinstance(payload, dict):
        return None
    words = base_url.rstrip("/"), endpoint.strip("/"), api_key or ""
    essence = _encode({name: value for name, value in payload.items() if name not in _DELIVERY})
    digest = blake2b(key=secret, digest_size=32)
    for part in (*(word.encode() for word in words), essence):
        digest.update(len(part).to_bytes(8, "big"))  # keeps the boundaries of the parts unambiguous
        digest.update(part)
    return digest.digest()


# ---------------------------------------------------------------- in-memory cache


class MemoryCache:
    """A cache of one process. `clock` returns unix epoch seconds."""

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
        with self._lock:
            kept = self._answers.get(key)
        fresh = kept is not None and self._clock() - kept.at < self._policy.max_age
        return kept if fresh else None

    def put(self, key: bytes, body: bytes) -> None:
        kept = CacheEntry(body, self._clock())
        with self._lock:
            self._drop(key)
            self._answers[key] = kept
            self._bytes += len(body)
            while self._bytes > self._policy.max_bytes:
                self._drop(next(iter(self._answers)))

    def close(self) -> None:
        with self._lock:
            self._answers.clear()
            self._bytes = 0

    def _count(self) -> None:
        """Recount in a child process: at the fork, a thread of the parent may have been changing the cache."""
        self._bytes = sum(len(kept.body) for kept in self._answers.values())

    def _drop(self, key: bytes) -> None:
        gone = self._answers.pop(key, None)
        if gone is not None:
            self._bytes -= len(gone.body)
