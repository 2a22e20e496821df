"""Errors with the files that the processes behind one port share."""

import struct
import threading
from weakref import ref

import pytest
from prometheus_client import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from stormbreak.telemetry import prometheus_multiprocess
from stormbreak.telemetry.prometheus_multiprocess import AllProcesses

METRIC = Metric("stormbreak_processes", "Processes.", "gauge")


class Gauges:
    """Gauges that a function writes."""

    def __init__(self, write):
        self.write = write


def test_the_writer_logs_failures_once_and_ends_with_the_gauges(monkeypatch, caplog):
    monkeypatch.setattr(prometheus_multiprocess, "WRITE_INTERVAL", 0.001)
    failures, written = [OSError("no space left")] * 2, threading.Event()

    def write():
        if failures:
            raise failures.pop()
        written.set()

    gauges = Gauges(write)
    writer = threading.Thread(target=prometheus_multiprocess._keep_writing, args=(ref(gauges),))
    writer.start()
    assert written.wait(30)
    del gauges
    writer.join(30)

    assert not writer.is_alive()
    assert [each.message for each in caplog.records] == [
        "cannot write gauges: other processes export old ones"
    ]


@pytest.fixture
def reading(monkeypatch, tmp_path):
    """Make the collector find this number of incomplete files; return the list of its reads."""
    monkeypatch.setenv(prometheus_multiprocess.FOLDER, str(tmp_path))
    monkeypatch.setattr(prometheus_multiprocess, "_READ_PAUSE", 0.0)

    def begin(unfinished):
        reads = []

        def collect(_):
            reads.append(1)
            if len(reads) <= unfinished:
                raise struct.error
            return [METRIC]

        monkeypatch.setattr(MultiProcessCollector, "collect", collect)
        return reads

    return begin


def test_a_scrape_waits_for_an_incomplete_file(reading):
    reads = reading(3)
    assert AllProcesses(lambda: None).collect() == [METRIC]
    assert len(reads) == 4


def test_a_file_that_stays_incomplete_raises(reading):
    reading(1000)
    with pytest.raises(struct.error):
        AllProcesses(lambda: None).collect()
