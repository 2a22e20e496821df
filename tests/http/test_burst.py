"""From idle, a burst to a healthy provider is not held back: on real sockets."""

import asyncio

from bursts import CALLS, IDLE, burst
from table_test import table_test

from stormbreak.testing import serve


@table_test("stream_on_wire", [False, True])
def test_two_hundred_calls_in_one_instant_wait_for_nothing(stream_on_wire):
    with serve(IDLE) as provider:
        answers, took = asyncio.run(burst(provider.base_url, stream_on_wire=stream_on_wire))
        stats = provider.stats()

    assert [answer.attempts for answer in answers] == [1] * CALLS
    assert [answer.waited for answer in answers] == [0.0] * CALLS
    assert stats["answers"] == {"200": CALLS}
    assert took < 20.0  # one after the other, they would take CALLS * SERVICE
