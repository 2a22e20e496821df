"""What a cache keeps, and the interface that its kinds share."""

from typing import NamedTuple, Protocol


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
        """What digests of requests are keyed with: see `key`."""
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
