"""CPU load during a live storm, to detect results that an overloaded machine distorted.

It is read from /proc every `WINDOW` seconds. Without /proc it is unknown.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

WINDOW = 5.0  # seconds of a measurement window
ENOUGH = 0.8  # share of a core above which a process may have been the bottleneck


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakCpuLoad:
    """The largest share of a core (of the machine: of all cores) in any window. None: unknown."""

    program: float | None = None  # the busiest copy, with its waited-for children
    provider: float | None = None
    machine: float | None = None


class CpuLoad:
    """Watches some processes and this one, which runs the provider."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = tuple(pids)
        self._since = time.monotonic()
        self._before = self._read()
        self._max: dict[str, float] = {}

    def sample(self) -> None:
        """Measure the shares of a window, if one is over."""
        took = time.monotonic() - self._since
        if took < WINDOW:
            return
        self._since += took
        before, self._before = self._before, self._read()
        for name in self._before.keys() & before.keys():
            share = max(0.0, self._before[name] - before[name]) / took
            kind = name.partition(" ")[0]
            self._max[kind] = max(share, self._max.get(kind, 0.0))

    @property
    def busiest(self) -> PeakCpuLoad:
        """The maxima so far; unknown until the first window is over."""
        return PeakCpuLoad(**{kind: round(share, 3) for kind, share in self._max.items()})

    def _read(self) -> dict[str, float]:
        """CPU seconds so far, where known."""
        seconds = {"provider": time.process_time(), "machine": _of_machine()}
        seconds.update((f"program {pid}", _of_process(pid)) for pid in self._pids)
        return {name: known for name, known in seconds.items() if known is not None}


def _of_process(pid: int) -> float | None:
    """User and system time, with waited-for children (proc(5): fields 14 to 17)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _of_machine() -> float | None:
    """Busy time per core, without disk waits (proc(5): /proc/stat)."""
    try:
        first = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, *rest = map(int, first.split()[1:])
    stolen = rest[0] if rest else 0
    busy = user + nice + system + irq + softirq + stolen
    return busy / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)
