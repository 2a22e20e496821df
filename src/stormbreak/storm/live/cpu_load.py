"""How busy processors were, so that a figure can be told from a machine that could not keep up.

Read from /proc, once in `WINDOW` seconds; where there is none, nobody knows.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

WINDOW = 5.0
"""Seconds over which a share is taken."""

ENOUGH = 0.8
"""Of a core, from which on a process may have held things up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakCpuLoad:
    """The largest share of a core in any window; of the machine, of all its cores. None: not known."""

    program: float | None = None  # the busiest of its copies, with what they started and waited for
    provider: float | None = None
    machine: float | None = None


class CpuLoad:
    """Watches some processes beside this one, in which the provider is."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = tuple(pids)
        self._since = time.monotonic()
        self._before = self._read()
        self._most: dict[str, float] = {}

    def look(self) -> None:
        """Take the shares of a window, if one is over."""
        took = time.monotonic() - self._since
        if took < WINDOW:
            return
        self._since += took
        now = self._read()
        for name, seconds in now.items():
            if name in self._before:
                share = max(0.0, seconds - self._before[name]) / took
                kind = name.partition(" ")[0]
                self._most[kind] = max(share, self._most.get(kind, 0.0))
        self._before = now

    @property
    def busiest(self) -> PeakCpuLoad:
        """The most until now; nothing before the first window is over."""
        return PeakCpuLoad(**{kind: round(share, 3) for kind, share in self._most.items()})

    def _read(self) -> dict[str, float]:
        """CPU seconds until now of whatever is known."""
        seconds = {"provider": time.process_time(), "machine": _of_machine()}
        seconds.update((f"program {pid}", _of_process(pid)) for pid in self._pids)
        return {name: known for name, known in seconds.items() if known is not None}


def _of_process(pid: int) -> float | None:
    """User and system time, of its waited-for children, too (proc(5): fields 14 to 17)."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = told.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _of_machine() -> float | None:
    """All but idle and waiting for disks, per core (proc(5): /proc/stat)."""
    try:
        first = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, *rest = map(int, first.split()[1:])
    stolen = rest[0] if rest else 0
    busy = user + nice + system + irq + softirq + stolen
    return busy / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)
