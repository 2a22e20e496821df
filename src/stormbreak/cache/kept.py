"""What a cache keeps, and how long: the values and the interface that its kinds share."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from stormbreak.core.checks import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """An answer is given for `max_age` seconds after it was kept; all of them have at most `max_bytes`."""

    max_age: float = 86_400.0
    max_bytes: int = 256 * 1024 * 1024

    def __post_init__(self) -> None:
        require(self.max_age > 0, "max_age must be positive", self.max_age)
        require(self.max_bytes > 0, "max_bytes must be positive", self.max_bytes)


class Kept(NamedTuple):
    """An answer's body, JSON as the provider wrote it, and when it was kept (unix epoch seconds)."""

    body: bytes
    at: float

    def __repr__(self) -> str:
        return f"Kept({len(self.body)} bytes, {self.at})"


class Cache(Protocol):
    """Keeps one answer per key, the last. From any thread; nothing that goes wrong in it fails a call."""

    @property
    def secret(self) -> bytes:
        """What digests of requests are keyed with: see `key`."""
        ...

    def get(self, key: bytes) -> Kept | None:
        """The answer of that key, unless it is too old."""
        ...

    def put(self, key: bytes, body: bytes) -> None:
        """Keep an answer; the oldest make room for it."""
        ...

    def close(self) -> None:
        """Let go of what is held; afterwards nothing is found and nothing kept."""
        ...
