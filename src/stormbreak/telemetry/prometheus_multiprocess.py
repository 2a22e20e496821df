"""Prometheus gauges, read at each scrape, and the multi-process mode of `prometheus_client`.

In that mode every process writes its numbers to files below PROMETHEUS_MULTIPROC_DIR, and the scraped process adds them
up. The library does so for counters. No process can read the gauges of another, so each writes its own once a second,
and before it is scraped.
"""

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
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.errors import ConfigurationError
from stormbreak.telemetry.gauges import GAUGES, EngineGauges

PREFIX = "stormbreak_"
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
WRITE_INTERVAL = 1.0  # seconds
_READ_PAUSE = 0.01  # seconds in which another process fills a file that it has just created
_MAX_READS = 20

_log = logging.getLogger("stormbreak")


class GaugeCollector(Collector):
    """Reads the gauges at each scrape, from any thread."""

    def __init__(self, gauges: EngineGauges) -> None:
        self._gauges = gauges

    def describe(self) -> Iterable[Metric]:
        """Return the gauges without values."""
        return _families().values()

    def collect(self) -> Iterable[Metric]:
        families = _families()
        for (name, labels), value in _read(self._gauges).items():
            families[name].add_metric(labels, value)
        return families.values()


def _families() -> dict[str, CounterMetricFamily | GaugeMetricFamily]:
    return {
        name: (CounterMetricFamily if gauge.counts else GaugeMetricFamily)(
            PREFIX + name, gauge.text, labels=gauge.labels
        )
        for name, gauge in GAUGES.items()
    }


def _read(gauges: EngineGauges) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (name, tuple(labels[label] for label in GAUGES[name].labels)): value
        for name, values in gauges.values().items()
        for labels, value in values
    }


_NEUTRAL = {"sum": 0.0, "max": 0.0, "min": float("inf")}
"""The value that changes nothing in the total: a value cannot be removed from the files."""

_LIMITS = {
    PREFIX + name
    for name, gauge in GAUGES.items()
    if gauge.field in ("rpm", "tpm", "spend_limit_usd")
}
"""None of these is ever 0: a value of 0 was removed."""

fork_lock = new_lock()
"""Held while `prometheus_client` writes: a child forked meanwhile would inherit the library's locked lock."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=fork_lock.acquire,
        after_in_parent=fork_lock.release,
        after_in_child=fork_lock.release,
    )


def is_multiprocess() -> bool:
    """Whether `prometheus_client` chose its multi-process mode when it was imported.

    Raises ConfigurationError if the variable was set too late, or its folder does not exist.
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
    """Writes the gauges of this process where every process can read them. From any thread."""

    def __init__(self, gauges: EngineGauges, registry: prometheus_client.CollectorRegistry) -> None:
        self._source = gauges
        self._gauges = {
            name: prometheus_client.Gauge(
                PREFIX + name,
                gauge.text,
                gauge.labels,
                registry=registry,
                multiprocess_mode=f"live{gauge.across}",  # type: ignore[arg-type]
            )
            for name, gauge in GAUGES.items()
            if not gauge.counts
        }
        self._counters = {
            name: prometheus_client.Counter(
                PREFIX + name, gauge.text, gauge.labels, registry=registry
            )
            for name, gauge in GAUGES.items()
            if gauge.counts
        }
        # It also gives every process a file whose name has its process id.
        self._processes = prometheus_client.Gauge(
            PREFIX + "processes",
            "Live processes that had a call or were scraped.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._written: set[tuple[str, tuple[str, ...]]] = set()
        self._begin()
        reset_in_child(self._begin)

    def _begin(self) -> None:
        self._writer: threading.Thread | None = None  # threads do not survive a fork
        self._counted: dict[tuple[str, tuple[str, ...]], float] = {}

    def start(self) -> None:
        """Write from now on, as long as this object lives. A second call does nothing."""
        if self._writer is not None:
            return
        writer = threading.Thread(
            target=_keep_writing, args=(ref(self),), name="stormbreak-gauges", daemon=True
        )
        with fork_lock:
            first = self._writer is None
            if first:
                self._writer = writer
        if first:
            try:
                writer.start()  # not under the lock: it waits for the new thread
            except RuntimeError:  # no thread can be started: the next event tries again
                self._writer = None
                raise

    def write(self) -> None:
        with fork_lock:  # also while reading: an earlier reading must not be written last
            now = _read(self._source)
            self._processes.set(1)
            for name, labels in self._written - now.keys():
                self._gauges[name].labels(*labels).set(_NEUTRAL[GAUGES[name].across])
            for (name, labels), value in now.items():
                if name in self._gauges:
                    self._gauges[name].labels(*labels).set(value)
                    self._written.add((name, labels))
                else:
                    before = self._counted.get((name, labels), 0.0)
                    self._counters[name].labels(*labels).inc(value - before)
                    self._counted[name, labels] = value


class AllProcesses(Collector):
    """The totals of all processes. `write` is called first, so that the values of this process are current."""

    def __init__(self, write: Callable[[], None]) -> None:
        self._write = write

    def collect(self) -> Iterable[Metric]:
        """Return the totals, without the gauges of dead processes."""
        self._write()
        _remove_dead_processes(Path(os.environ[FOLDER]))
        collector = multiprocess.MultiProcessCollector(None)  # type: ignore[no-untyped-call]
        for _ in range(_MAX_READS):
            with suppress(struct.error):  # another process has created a file and not filled it
                return _without_removed_limits(collector.collect())  # type: ignore[no-untyped-call]
            time.sleep(_READ_PAUSE)
        return _without_removed_limits(collector.collect())  # type: ignore[no-untyped-call]


def _without_removed_limits(metrics: Iterable[Metric]) -> list[Metric]:
    metrics = list(metrics)
    for metric in metrics:
        if metric.name in _LIMITS:
            metric.samples = [sample for sample in metric.samples if sample.value]
    return metrics


def _remove_dead_processes(folder: Path) -> None:
    pids = {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*_*.db")}
    if str(os.getpid()) not in pids or os.name != "posix":  # the files are not named by process id
        return
    for pid in pids:
        if not _is_alive(pid):
            with suppress(FileNotFoundError):  # another process has removed it
                multiprocess.mark_process_dead(int(pid), str(folder))  # type: ignore[no-untyped-call]


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OverflowError):
        return True
    return True


def _keep_writing(reference: "ref[SharedGauges]") -> None:
    warned = False
    while (gauges := reference()) is not None:
        try:
            gauges.write()
        except Exception:  # noqa: BLE001 - such as a full disk, which may pass
            if not warned:
                _log.warning("cannot write gauges: other processes export old ones", exc_info=True)
            warned = True
        del gauges
        time.sleep(WRITE_INTERVAL)
