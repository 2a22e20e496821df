"""One engine under two event loops in two threads, and under 64 threads, for a minute each."""

import pytest
from crowd import BackgroundTraffic

pytestmark = pytest.mark.prove


def test_a_minute_of_ten_thousand_tasks_leaves_nothing_behind():
    traffic = BackgroundTraffic()
    traffic.run(tasks=5_000, seconds=60.0)

    assert traffic.seen["ended"] > 10_000
    traffic.check(started=traffic.seen["ended"] + traffic.seen["cancelled"])


def test_a_minute_of_64_threads_leaves_nothing_behind():
    traffic = BackgroundTraffic()
    traffic.run_threads(threads=64, seconds=60.0)

    assert traffic.seen["ended"] > 10_000
    traffic.check(started=traffic.seen["ended"] + traffic.seen["cancelled"])
