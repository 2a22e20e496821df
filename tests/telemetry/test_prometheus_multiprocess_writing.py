"""What the processes behind one port write for each other, where there is trouble with it."""

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
    """Those that are written by a function."""

    def __init__(self, write):
        self.write = write


def test_trouble_is_told_once_and_it_goes_on_until_nobody_has_the_gauges(monkeypatch, caplog):
    monkeypatch.setattr(prometheus_multiprocess, "WRITE_INTERVAL", 0.001)
    trouble, written = [OSError("no space left")] * 2, threading.Event()

    def write():
        if trouble:
            raise trouble.pop()
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
    """A collector that meets so many files that are not finished; gives how often it reads."""
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


def test_a_file_that_another_process_is_about_to_make_is_waited_for(reading):
    reads = reading(3)
    assert AllProcesses(lambda: None).collect() == [METRIC]
    assert len(reads) == 4


def test_one_that_stays_as_it_is_is_told(reading):
    reading(1000)
    with pytest.raises(struct.error):
        AllProcesses(lambda: None).collect()
