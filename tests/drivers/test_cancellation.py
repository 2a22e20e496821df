"""Every driver reports a cancelled call once; a call that ended is not reported as cancelled."""

import asyncio
import contextlib

from stage import OK, TARGET, THROTTLED, policy
from table_test import table_test
from thread_calls import run_call
from virtual_threads import Threads

from stormbreak.core.backoff import Backoff
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.flow_stepper import Stepper
from stormbreak.drivers.thread_driver import ThreadDriver
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.events import CallCancelled, CallEnded
from stormbreak.types import Call

RETRIED = policy(
    retry=RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=60.0))
)
HEDGED = policy(hedge=HedgePolicy(delay=60.0, percentile=None))


def under_asyncio(engine, outcome):
    async def sender(send):
        if outcome is None:
            await asyncio.sleep(60.0)
        return outcome

    async def main():
        call = Call(7, TARGET, races=engine.races)
        calling = asyncio.ensure_future(AsyncioDriver(engine).run(call, sender))
        await asyncio.sleep(0.02)
        calling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await calling

    asyncio.run(main())


def in_virtual_time(engine, outcome):
    timeline = Timeline()

    def sender(send, reply):
        if outcome is not None:
            reply(outcome)

    cancel = VirtualDriver(engine, timeline).start(Call(7, TARGET), sender, lambda _: None)
    timeline.at(1.0, cancel)
    timeline.run()


def in_threads(engine, outcome):
    threads = Threads()
    driver = ThreadDriver(engine, clock=threads.time, parking=threads.parking)

    def sender(send):
        if outcome is None:
            threads.sleep(60.0)
        return outcome

    thread = threads.spawn(0.0, lambda: run_call(driver, Call(7, TARGET), sender))
    threads.at(1.0, lambda: threads.cancel(thread))
    threads.run()


@table_test(
    ("drive", "chosen"),
    [
        (under_asyncio, RETRIED),
        (under_asyncio, HEDGED),
        (in_virtual_time, RETRIED),
        (in_threads, RETRIED),
    ],
)
@table_test(
    ("outcome", "expected"),
    [
        (None, (CallCancelled, True)),  # during an attempt
        (THROTTLED, (CallCancelled, False)),  # during a backoff
        (OK, (CallEnded, None)),  # it had ended
    ],
)
def test_a_call_ends_in_one_event(drive, chosen, outcome, expected):
    events = []
    chosen = RETRIED if outcome is THROTTLED else chosen
    engine = Engine(chosen)
    engine.listeners.append(events.append)
    drive(engine, outcome)
    ends = [event for event in events if isinstance(event, CallCancelled | CallEnded)]

    assert [(type(end), getattr(end, "sent", None)) for end in ends] == [expected]
    assert (ends[0].call, ends[0].target) == (7, TARGET)
    assert engine.target_state(TARGET).idle


def test_a_call_cancelled_in_the_queue_was_not_sent():
    events = []
    engine = Engine(policy(limit=FixedLimit(max_in_flight=1)))
    engine.listeners.append(events.append)
    stepper = Stepper(engine, clock=lambda: 3.0, chance=lambda: 0.5)
    first, _ = stepper.start(Call(1, TARGET))
    second, _ = stepper.start(Call(2, TARGET))
    stepper.close(second)
    stepper.close(second)  # a second time changes nothing
    stepper.step(first, OK)
    stepper.close(first)

    assert [event for event in events if isinstance(event, CallCancelled)] == [
        CallCancelled(3.0, 2, TARGET, False)
    ]
