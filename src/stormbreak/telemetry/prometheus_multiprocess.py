"""Gauges for Prometheus, read at each scrape; also of several processes behind one port."""

import logging
import os
import struct
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from weakref import ref

import prometheus_client
from prometheus_client import Metric, multiprocess, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.errors import ConfigurationError
from stormbreak.telemetry.gauges import STANDING, Standing

PREFIX = "stormbreak_"


class Gauges(Collector):
    """Looks whenever it is asked; from any thread."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The gauges, without a value."""
        return _empty().values()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges as they stand."""
        lanes, families = self._standing.lanes(), _empty()
        for name, family in families.items():
            gauge = STANDING[name]
            for labels, value in gauge.values(lanes):
                family.add_metric([labels[label] for label in gauge.labels], value)
        return families.values()


def _empty() -> dict[str, GaugeMetricFamily]:
    return {
        name: GaugeMetricFamily(PREFIX + name, gauge.text, labels=gauge.labels)
        for name, gauge in STANDING.items()
    }


# ---------------------------------------------------------------- multi-process mode
# In this mode of `prometheus_client` every process writes its numbers into files of its own below
# PROMETHEUS_MULTIPROC_DIR, and whichever is scraped adds up what all have written. Counters do so
# by themselves. A gauge is looked up, and nobody can look into another process: so each writes its
# own gauges down once a second, and before it is scraped.

EVERY = 1.0  # seconds between two looks
A_MOMENT = 0.01  # seconds in which a process fills a file that it has made
MOMENTS = 20  # at the most
FOLDER = "PROMETHEUS_MULTIPROC_DIR"

_log = logging.getLogger("stormbreak")

_NOTHING = {"sum": 0.0, "max": 0.0, "min": float("inf")}
"""What changes nothing in what all processes come to: a value cannot be taken out of the files."""

writing = new_lock()
if hasattr(os, "register_at_fork"):
    # prometheus_client has a lock for all that it writes: a child that is made meanwhile would wait for ever.
    os.register_at_fork(
        before=writing.acquire,
        after_in_parent=writing.release,
        after_in_child=writing.release,
    )


def is_multiprocess() -> bool:
    """Whether prometheus_client is in its multi-process mode, which it chooses when it is imported.

    Raises:
        ConfigurationError: the mode was asked for too late, or the folder is not there.
    """
    folder = os.environ.get(FOLDER)
    if values.ValueClass is values.MutexValue:
        if folder is not None:
            raise ConfigurationError(
                f"{FOLDER} was set after prometheus_client was imported: set it before the program starts"
            )
        return False
    if folder is None or not Path(folder).is_dir():
        raise ConfigurationError(f"{FOLDER} must name a folder that exists")
    return True


class SharedGauges:
    """What stands in this process, written where every process reads it. From any thread."""

    def __init__(self, standing: Standing, registry: prometheus_client.CollectorRegistry) -> None:
        self._standing = standing
        self._gauges = {
            name: prometheus_client.Gauge(
                PREFIX + name,
                gauge.text,
                gauge.labels,
                registry=registry,
                multiprocess_mode=f"live{gauge.across}",  # type: ignore[arg-type]
            )
            for name, gauge in STANDING.items()
        }
        # By it, too, each has a file, and the others know by what its files are named.
        self._processes = prometheus_client.Gauge(
            PREFIX + "processes",
            "Processes that have had a call, or were scraped, and live.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._written: set[tuple[str, tuple[str, ...]]] = set()
        self._begin()
        reset_in_child(self._begin)

    def _begin(self) -> None:
        self._writer: threading.Thread | None = None  # a fork has none

    def begin(self) -> None:
        """Write from now on, as long as this object lives; if that is so already, do nothing."""
        if self._writer is not None:
            return
        writer = threading.Thread(
            target=_keep_writing, args=(ref(self),), name="stormbreak-gauges", daemon=True
        )
        with writing:
            first = self._writer is None
            if first:
                self._writer = writer
        if first:
            try:
                writer.start()  # not under the lock: that waits for the new thread
            except RuntimeError:  # no thread can be started: the next event tries again
                self._writer = None
                raise

    def write(self) -> None:
        """Write what stands where now."""
        with writing:  # looking, too: who looks first must not write last
            now = self._now()
            self._processes.set(1)
            for name, labels in self._written - now.keys():
                self._gauges[name].labels(*labels).set(_NOTHING[STANDING[name].across])
            for (name, labels), value in now.items():
                self._gauges[name].labels(*labels).set(value)
            self._written |= now.keys()

    def _now(self) -> dict[tuple[str, tuple[str, ...]], float]:
        lanes = self._standing.lanes()
        return {
            (name, tuple(labels[label] for label in gauge.labels)): value
            for name, gauge in STANDING.items()
            for labels, value in gauge.values(lanes)
        }


class AllProcesses(Collector):
    """The numbers of all processes, as one. `write` is called first, so that those of this one are of now."""

    def __init__(self, write: Callable[[], None]) -> None:
        self._write = write

    def collect(self) -> Iterable[Metric]:
        """All that they have written; the gauges of those that are no more are not among it."""
        self._write()
        _remove_dead_processes(Path(os.environ[FOLDER]))
        collector = multiprocess.MultiProcessCollector(None)  # type: ignore[no-untyped-call]
        for _ in range(MOMENTS):
            with suppress(struct.error):  # a file that another process has made, and not filled
                return list(collector.collect())  # type: ignore[no-untyped-call]
            time.sleep(A_MOMENT)
        return list(collector.collect())  # type: ignore[no-untyped-call]


def _remove_dead_processes(folder: Path) -> None:
    """Remove what processes that are no more had to say of what stands: it stands no longer."""
    pids = {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*_*.db")}
    if str(os.getpid()) not in pids or os.name != "posix":  # then they are known by something else
        return
    for pid in pids:
        if not _lives(pid):
            with suppress(FileNotFoundError):  # another one has seen to it
                multiprocess.mark_process_dead(int(pid), str(folder))  # type: ignore[no-untyped-call]


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OverflowError):
        return True
    return True


def _keep_writing(held: "ref[SharedGauges]") -> None:
    told = False
    while (gauges := held()) is not None:
        try:
            gauges.write()
        except Exception:  # noqa: BLE001 - such as a full disk, which may pass
            if not told:
                _log.warning(
                    "gauges cannot be written: other processes tell old ones", exc_info=True
                )
            told = True
        del gauges
        time.sleep(EVERY)
