"""A burst from idle to a healthy provider is sent at once, on real sockets."""

import asyncio

from bursts import CALLS, IDLE, burst
from table_test import table_test

from stormbreak.testing import serve


@table_test("stream_on_wire", [False, True])
def test_two_hundred_calls_from_idle_are_sent_without_waiting(stream_on_wire):
    with serve(IDLE) as provider:
        answers, took = asyncio.run(burst(provider.base_url, stream_on_wire=stream_on_wire))
        stats = provider.stats()

    assert [answer.attempts for answer in answers] == [1] * CALLS
    assert [answer.waited for answer in answers] == [0.0] * CALLS
    assert stats["answers"] == {"200": CALLS}
    assert took < 20.0  # one after another they would take CALLS * SERVICE
