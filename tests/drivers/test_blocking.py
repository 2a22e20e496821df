"""Coroutines on the calling thread: they wait for sockets, end in time, and other threads wake them."""

import asyncio
import contextvars
import gc
import socket
import threading
import time
import weakref

import pytest
from interrupts import interrupted
from sockets import PATIENCE
from sockets import until as wait_until

from stormbreak.drivers.blocking import (
    READ,
    LateError,
    Signal,
    SocketWait,
    Strand,
    blocks_here,
    foreign,
    in_time,
    run,
    running_strand,
)

WHO = contextvars.ContextVar("WHO", default="nobody")


@pytest.fixture
def pair():
    here, there = socket.socketpair()
    with here, there:
        yield here, there


async def read(sock, until=float("inf")):
    ready = await SocketWait((sock, READ), until=until)
    return sock.recv(100) if ready else None


def test_a_coroutine_runs_on_the_calling_thread_in_its_context():
    async def who():
        return WHO.get(), threading.current_thread(), blocks_here()

    WHO.set("caller")
    assert run(who()) == ("caller", threading.current_thread(), True)
    assert not blocks_here()


def test_a_strand_that_began_in_time_gets_one_extension_after_a_stall(pair):
    now = time.monotonic()
    strand, late = Strand(read(pair[0]), now + PATIENCE), Strand(read(pair[0]), now - 1.0)
    assert strand.try_extend(strand.until + 1.0)
    assert not strand.try_extend(strand.until + 1.0)
    assert not late.try_extend(now)
    strand.close()
    late.close()


def test_an_exception_of_the_coroutine_is_raised():
    async def fails():
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        run(fails())
    assert not blocks_here()


def test_a_coroutine_waits_for_a_socket(pair):
    here, there = pair
    threading.Timer(0.02, there.sendall, (b"late",)).start()
    assert run(read(here)) == b"late"


def test_a_wait_that_times_out_resumes_with_nothing(pair):
    assert run(read(pair[0], time.monotonic() + 0.02)) is None


def test_a_coroutine_is_cancelled_at_its_deadline(pair):
    ends = []

    async def waits():
        try:
            await read(pair[0])
        finally:
            ends.append(True)

    began = time.monotonic()
    with pytest.raises(LateError):
        run(waits(), began + 0.05)
    assert 0.05 <= time.monotonic() - began < PATIENCE
    assert ends == [True]


def test_a_socket_that_is_always_ready_does_not_extend_the_deadline(pair):
    here, there = pair
    there.sendall(b"more")

    async def waits():
        for _ in range(300_000):
            await SocketWait((here, READ))

    began = time.monotonic()
    with pytest.raises(LateError):
        run(waits(), began + 0.05)
    assert time.monotonic() - began >= 0.05


def test_at_until_is_called_instead_of_a_cancel(pair):
    here, there = pair
    assert run(read(here), time.monotonic() + 0.02, at_until=lambda: there.sendall(b"over")) is None


def test_an_interrupt_is_raised_inside_the_wait(pair):
    seen = []

    async def waits():
        try:
            await read(pair[0])
        except BaseException as error:
            seen.append(type(error))
            raise

    with interrupted(once=lambda: True), pytest.raises(KeyboardInterrupt):
        run(waits())
    assert seen == [KeyboardInterrupt]


def test_another_thread_wakes_a_coroutine_by_its_socket(pair):
    def interrupt(strand):
        wait_until(lambda: strand.waits_for is not None)
        strand.interrupt()

    async def waits():
        threading.Thread(target=interrupt, args=[running_strand()]).start()
        return await read(pair[0])

    assert run(waits()) == b""


def test_an_interrupt_between_two_waits_is_not_missed(pair):
    async def waits():
        running_strand().interrupt()
        await SocketWait((pair[0], READ))

    strand = Strand(waits())
    strand.resume(None)
    suspended = strand.waits_for is not None
    strand.close()
    assert suspended


def test_awaiting_an_event_loop_is_refused():
    with pytest.raises(RuntimeError, match="may not wait for an event loop"):
        run(asyncio.sleep(0))


def test_a_coroutine_runs_inside_a_loop_that_it_blocks(pair):
    """As in a notebook."""

    async def cell():
        pair[1].sendall(b"fine")
        return run(read(pair[0])), blocks_here()

    assert asyncio.run(cell()) == (b"fine", False)


def test_a_loop_inside_a_coroutine_works():
    async def outer():
        return asyncio.run(inner())

    async def inner():
        await asyncio.sleep(0)
        return blocks_here()

    assert run(outer()) is False


# ------------------------------------------------------------ bounds on loops and threads


@pytest.mark.parametrize("drive", [asyncio.run, run], ids=["loop", "thread"])
def test_in_time_bounds_a_coroutine_on_a_loop_and_on_a_thread(drive, pair):
    async def quick():
        return 1

    async def slow():
        if blocks_here():
            await read(pair[0])
        await asyncio.sleep(60)

    async def its_own():
        raise TimeoutError("its own")

    async def main():
        assert await in_time(quick(), None) == 1
        assert await in_time(quick(), time.monotonic() + 60) == 1
        with pytest.raises(LateError):
            await in_time(slow(), time.monotonic() + 0.02)
        with pytest.raises(LateError):
            await in_time(quick(), time.monotonic() - 1)
        with pytest.raises(TimeoutError, match="its own"):
            await in_time(its_own(), time.monotonic() + 60)

    drive(main())


# ------------------------------------------------------------ other threads


def test_a_signal_wakes_a_wait_before_and_after_it_is_set():
    before, later, never = Signal(), Signal(), Signal()
    before.set()
    before.set()
    threading.Timer(0.02, later.set).start()
    assert run(before.wait())
    assert run(later.wait())
    assert not run(never.wait(time.monotonic() + 0.02))
    later.set()  # it is closed


def test_a_coroutine_of_a_user_runs_on_its_own_loop():
    async def theirs():
        await asyncio.sleep(0.01)
        return WHO.get()

    async def fails():
        await asyncio.sleep(0)
        raise LookupError("theirs")

    WHO.set("caller")
    assert run(foreign(theirs())) == "caller"
    assert asyncio.run(foreign(theirs())) == "caller"
    with pytest.raises(LookupError, match="theirs"):
        run(foreign(fails()))


def test_a_coroutine_of_a_user_is_cancelled_with_the_call():
    ended = threading.Event()

    async def theirs():
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with pytest.raises(LateError):
        run(foreign(theirs()), time.monotonic() + 0.1)
    assert ended.wait(PATIENCE)


def test_a_late_or_interrupted_coroutine_is_freed_without_the_garbage_collector(pair):
    """A bug: its exception was in a reference cycle with the coroutine, the request and its socket."""

    class Held:
        pass

    def tracked(do):
        held = Held()
        known.append(weakref.ref(held))

        async def waits(_):
            await read(pair[0])

        return do(waits(held))

    def interrupt(coroutine):
        with interrupted(once=lambda: True), pytest.raises(KeyboardInterrupt):
            run(coroutine)

    def late(coroutine):
        with pytest.raises(LateError):
            run(coroutine, time.monotonic() + 0.01)

    known = []
    gc.disable()
    try:
        for do in (late, interrupt):
            tracked(do)
    finally:
        gc.enable()
    assert [each() for each in known] == [None, None]
