"""What is under way in a driver: nobody slips in between the look and the wait."""

import asyncio

import pytest

from stormbreak.drivers.asyncio_tasks import RejectedWhileClosingError, UnderWay
from stormbreak.drivers.delivery import CLOSED, DRAINED
from stormbreak.drivers.timeouts import Timeout


class ParsedResponse:
    """A stream that notes that it was called off."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.over = False

    def call_off(self):
        self.over = True


def drained(under_way):
    under_way.drain()


def closed(under_way):
    under_way.close(None)


def closed_here(under_way):
    under_way.close(asyncio.get_running_loop())


async def waits(under_way):
    waking = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(2):
        await under_way.wait(waking)


@pytest.mark.parametrize("end", [drained, closed, closed_here])
async def test_who_looked_before_the_end_and_waits_after_it_is_sent_away(end):
    under_way = UnderWay()
    under_way.may_wait()
    end(under_way)
    with pytest.raises(RejectedWhileClosingError):
        await waits(under_way)
    assert under_way.sent_away(2) == (DRAINED if end is drained else CLOSED)._replace(attempts=2)


@pytest.mark.parametrize("end", [drained, closed, closed_here])
async def test_who_waits_is_woken_and_forgotten(end):
    under_way = UnderWay()
    waiting = asyncio.create_task(waits(under_way))
    await asyncio.sleep(0)
    end(under_way)
    await waiting
    assert not under_way._waits


async def test_who_is_cancelled_is_forgotten():
    under_way = UnderWay()
    waiting = asyncio.create_task(waits(under_way))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not under_way._waits


@pytest.mark.parametrize(("end", "over"), [(drained, False), (closed, True), (closed_here, True)])
async def test_a_stream_that_begins_after_the_end(end, over):
    under_way, stream = UnderWay(), ParsedResponse()
    end(under_way)
    under_way.reads(stream)
    assert stream.over is over


async def test_a_loop_of_which_nothing_was_said():
    under_way, other = UnderWay(), asyncio.new_event_loop()
    under_way.close(other)
    other.close()
    assert under_way.ending
    assert not under_way.closed_here()
    under_way.may_wait()


async def test_what_is_on_a_loop_that_is_closed_is_not_told():
    under_way, stream, waking = (
        UnderWay(),
        ParsedResponse(),
        asyncio.new_event_loop().create_future(),
    )
    stream.loop = waking.get_loop()
    under_way.reads(stream)
    under_way._waits.add(waking)
    stream.loop.close()
    under_way.close(None)
    assert (stream.over, waking.done()) == (False, False)


async def test_a_child_process_has_none_of_it():
    under_way, stream = UnderWay(), ParsedResponse()
    under_way.reads(stream)
    under_way._waits.add(asyncio.get_running_loop().create_future())
    with Timeout(5.0, under_way.timeouts):
        under_way.forget()
        under_way.close(None)
        await asyncio.sleep(0)  # it would be cancelled here
    assert (stream.over, under_way._waits) == (False, set())
