"""One engine under two event loops in two threads, for a minute."""

import pytest
from crowd import Crowd

pytestmark = pytest.mark.prove


def test_a_minute_of_ten_thousand_tasks_leaves_nothing_behind():
    crowd = Crowd()
    crowd.run(tasks=5_000, seconds=60.0)

    assert crowd.seen["ended"] > 10_000
    crowd.check(started=crowd.seen["ended"] + crowd.seen["cancelled"])
