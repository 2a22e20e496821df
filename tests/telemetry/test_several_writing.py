"""The thread that writes the gauges of a process for the others."""

import threading
from weakref import ref

import pytest

from stormbreak.telemetry import several


class Gauges:
    """Cannot be written twice, and then can."""

    def __init__(self):
        self.times = 0
        self.written = threading.Event()

    def write(self):
        self.times += 1
        if self.times <= 2:
            raise OSError("no space left")
        self.written.set()


@pytest.mark.filterwarnings("error")
def test_trouble_is_told_once_and_it_goes_on_until_nobody_has_the_gauges(monkeypatch, caplog):
    monkeypatch.setattr(several, "EVERY", 0.001)
    gauges = Gauges()
    writer = threading.Thread(target=several._keep_writing, args=(ref(gauges),))
    writer.start()
    assert gauges.written.wait(5)
    del gauges
    writer.join(5)

    assert not writer.is_alive()
    assert [each.message for each in caplog.records] == [
        "gauges cannot be written: other processes tell old ones"
    ]
