"""The in-memory cache, and what all caches share: the entry, the interface, the key of a request."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import NamedTuple, Protocol

import msgspec

from stormbreak.core.fallback import CachePolicy
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.llm.surrogates import UNREADABLE

# ---------------------------------------------------------------- entry and interface


class CacheEntry(NamedTuple):
    """An answer's body, JSON as the provider wrote it, and when it was kept (unix epoch seconds)."""

    body: bytes
    at: float

    def __repr__(self) -> str:
        return f"Kept({len(self.body)} bytes, {self.at})"


class Cache(Protocol):
    """Keeps one answer per key, the last. From any thread; nothing that goes wrong in it fails a call."""

    blocks: bool
    """Whether a disk may have to be waited for."""

    @property
    def secret(self) -> bytes:
        """What digests of requests are keyed with: see `cache_key`."""
        ...

    def get(self, key: bytes) -> CacheEntry | None:
        """The answer of that key, unless it is too old."""
        ...

    def put(self, key: bytes, body: bytes) -> None:
        """Keep an answer; the oldest make room for it."""
        ...

    def close(self) -> None:
        """Let go of what is held; afterwards nothing is found and nothing kept."""
        ...


# ---------------------------------------------------------------- cache key
# A keyed digest of the server, the endpoint, the body (its model included) and the API key. How an
# answer is to be delivered (`stream`) is left out, since it changes nothing that is said, and so is
# the order of the body's fields. Without the secret nobody can find out by trying whether a certain
# prompt was asked, or with which key.

SECRET_BYTES = 32
_DELIVERY = frozenset({"stream", "stream_options"})
_encode = msgspec.json.Encoder(order="sorted").encode


def cache_key(
    secret: bytes, base_url: str, endpoint: str, body: bytes, api_key: str | None
) -> bytes | None:
    """The key of an answer to `body`, 32 bytes; None for a body that is no JSON object."""
    try:
        said = msgspec.json.decode(body)
    except UNREADABLE:
        return None
    if not isinstance(said, dict):
        return None
    return _digest(secret, said, base_url.rstrip("/"), endpoint.strip("/"), api_key or "")


def _digest(secret: bytes, said: Mapping[str, object], *words: str) -> bytes:
    digest = blake2b(key=secret, digest_size=32)
    essence = _encode({name: value for name, value in said.items() if name not in _DELIVERY})
    for part in (*(word.encode() for word in words), essence):
        digest.update(len(part).to_bytes(8, "big"))  # so that no part can pass for the next
        digest.update(part)
    return digest.digest()


# ---------------------------------------------------------------- in-memory cache


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
