"""Active calls of a driver: no call starts a wait after the driver has been closed."""

import asyncio

import pytest

from stormbreak.drivers.asyncio_tasks import ActiveCalls, RejectedWhileClosingError
from stormbreak.drivers.delivery import CLOSED, DRAINED
from stormbreak.drivers.timeouts import Timeout


class ParsedResponse:
    """A stream that records that it was cut off."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.over = False

    def cut_off(self):
        self.over = True


def drained(active):
    active.drain()


def closed(active):
    active.close(None)


def closed_here(active):
    active.close(asyncio.get_running_loop())


async def waits(active):
    waking = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(30):
        await active.wait(waking)


@pytest.mark.parametrize("end", [drained, closed, closed_here])
async def test_a_call_that_waits_after_the_end_is_rejected(end):
    active = ActiveCalls()
    active.may_wait()
    end(active)
    with pytest.raises(RejectedWhileClosingError):
        await waits(active)
    assert active.ended_by_closing(2) == (DRAINED if end is drained else CLOSED)._replace(
        attempts=2
    )


@pytest.mark.parametrize("end", [drained, closed, closed_here])
async def test_the_end_wakes_and_forgets_a_waiting_call(end):
    active = ActiveCalls()
    waiting = asyncio.create_task(waits(active))
    await asyncio.sleep(0)
    end(active)
    await waiting
    assert not active._waits


async def test_a_cancelled_wait_is_forgotten():
    active = ActiveCalls()
    waiting = asyncio.create_task(waits(active))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not active._waits


@pytest.mark.parametrize(("end", "over"), [(drained, False), (closed, True), (closed_here, True)])
async def test_a_stream_that_begins_after_a_close_is_cut_off(end, over):
    active, stream = ActiveCalls(), ParsedResponse()
    end(active)
    active.reads(stream)
    assert stream.over is over


async def test_closing_another_loop_does_not_reject_calls_here():
    active, other = ActiveCalls(), asyncio.new_event_loop()
    active.close(other)
    other.close()
    assert active.ending
    assert not active.closed_here()
    active.may_wait()


async def test_the_close_leaves_streams_and_waits_of_a_closed_loop_alone():
    active, stream, waking = (
        ActiveCalls(),
        ParsedResponse(),
        asyncio.new_event_loop().create_future(),
    )
    stream.loop = waking.get_loop()
    active.reads(stream)
    active._waits.add(waking)
    stream.loop.close()
    active.close(None)
    assert (stream.over, waking.done()) == (False, False)


async def test_a_child_process_forgets_active_calls_of_its_parent():
    active, stream = ActiveCalls(), ParsedResponse()
    active.reads(stream)
    active._waits.add(asyncio.get_running_loop().create_future())
    with Timeout(5.0, active.timeouts):
        active.forget()
        active.close(None)
        await asyncio.sleep(0)  # it would be cancelled here
    assert (stream.over, active._waits) == (False, set())
