"""Memory that grows with the length of streams: what a process holds late in them, beyond what it held early."""

import resource
from itertools import count
from pathlib import Path


class Watch:
    """Counts the chunks of so many streams, from any thread, and looks twice."""

    def __init__(self, streams: int, chunks: int) -> None:
        self._streams = streams
        share = max(1, chunks // 10)
        self._looks = {share * streams, (chunks - share) * streams}
        self._numbers = count(1)
        self._held: list[float] = []

    def count(self) -> None:
        """One more chunk has come."""
        if next(self._numbers) in self._looks:
            self._held.append(_held())

    @property
    def growth(self) -> float:
        """KiB per stream."""
        return (self._held[-1] - self._held[0]) / self._streams


def allow_files(number: int) -> None:
    """Let this process have so many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(number, hard), hard))


def _held() -> float:
    """KiB of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024
