"""The same scenario gives the same events under asyncio, in threads and in virtual time."""

import asyncio
import functools
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from random import Random

import pytest
from stage import INVALID, OK, OTHER, SERVER_ERROR, TARGET, THROTTLED, policy, retry_in
from table_test import table_test
from thread_calls import run_call
from virtual_loop import now, run
from virtual_threads import Threads

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.presets import ARTICLE
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.trip import ConsecutiveFailures, FailureRate
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.thread_driver import ThreadDriver
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.events import Hedged, HedgeRefused, Overtaken
from stormbreak.types import Call, Outcome, Priority, Verdict

TIMED_OUT = Outcome(Verdict.TIMEOUT, maybe_processed=True)
CALLS = 150
POLICIES = {
    "queueing": policy(
        limit=FixedLimit(max_in_flight=4),
        queue=QueuePolicy(max_size=10),
        attempt_timeout=6.0,
        retry_budget=BudgetPolicy(ratio=0.3),
        breaker=BreakerPolicy(
            trip=FailureRate(ratio=0.6, min_calls=6, window_seconds=10.0),
            open_duration=3.0,
            probe_lease=4.0,
        ),
        retry=RetryPolicy(max_attempts=4, backoff=Backoff(initial_delay=0.5)),
    ),
    "fragile": policy(
        limit=FixedLimit(max_in_flight=12),
        attempt_timeout=5.0,
        breaker=BreakerPolicy(
            trip=ConsecutiveFailures(failure_threshold=3),
            open_duration=2.0,
            probes=2,
            max_concurrent_probes=1,
            probe_lease=3.0,
        ),
        retry=RetryPolicy(
            max_attempts=5, backoff=Backoff(kind="proportional_jitter", initial_delay=0.3)
        ),
    ),
    "fewer and fewer": policy(
        limit=AutomaticLimit(max_in_flight=6),
        adaptive_rate=True,
        attempt_timeout=4.0,
        retry_budget=BudgetPolicy(ratio=0.1, low_traffic_calls=3),
        retry=RetryPolicy(max_attempts=4, backoff=Backoff(initial_delay=0.2)),
    ),
    "article": ARTICLE,
    "hedged": policy(
        limit=FixedLimit(max_in_flight=30),
        cooldown=False,  # calls that leave together after one would draw on the budget at the same instant
        attempt_timeout=5.0,
        retry_budget=BudgetPolicy(ratio=0.5),
        hedge=HedgePolicy(delay=0.3, percentile=0.6, max_hedges=2),
        retry=RetryPolicy(max_attempts=5, backoff=Backoff(initial_delay=0.2)),
    ),
}

APART = 3e-5  # seconds


@dataclass(frozen=True)
class Arrival:
    at: float
    call: Call
    cancelled_at: float


def arrivals(rules, seed):
    """Calls with various patience, some of which are cancelled.

    With hedges there are no deadlines: all would end at the same instant, in any order.
    """
    chance = Random(seed)
    at = 0.0
    for number in range(1, CALLS + 1):
        at += chance.expovariate(4.0)
        call = Call(
            number,
            chance.choice([TARGET, TARGET, TARGET, OTHER]),
            deadline_at=chance.choice([None, at + 10.0 * chance.random() + 0.1])
            if rules.hedge is None
            else None,
            patience=chance.choice([None, 8.0 * chance.random() + 0.1]),
            priority=chance.choice(list(Priority)),
            fail_fast=chance.random() < 0.5,
        )
        cancelled_at = at + 6.0 * chance.random() if chance.random() < 0.1 else math.inf
        yield Arrival(at, call, cancelled_at)


def answer(seed, call, attempt):
    """The outcome of one attempt, and its duration; there are two bursts of errors."""
    chance = Random(f"{seed}/{call}/{attempt}")
    failing = call % 70 > 50
    outcome = chance.choices(
        [OK, SERVER_ERROR, THROTTLED, retry_in(0.1 + 4.0 * chance.random()), INVALID],
        [20, 60, 5, 5, 1] if failing else [80, 3, 6, 6, 2],
    )[0]
    hangs = chance.random() < 0.05
    return outcome, 100.0 * hangs + 0.01 + chance.expovariate(1.5)


def chance_of(clock):
    """A chance that depends on the time alone: both drivers draw the same, in any order.

    Their times differ by 1e-8 or so. `APART` moves them away from where the rounding would fall between the two.
    """
    return lambda: math.modf(abs(math.sin(round(clock() + APART, 4) * 12.9898)) * 43758.5453)[0]


def under_asyncio(rules, seed):
    events, ends = [], {}

    async def main():
        loop = asyncio.get_running_loop()
        engine = Engine(rules)
        engine.listeners.append(events.append)
        driver = AsyncioDriver(engine, clock=loop.time, chance=chance_of(loop.time))

        async def one(arrival):
            async def sender(send):
                outcome, takes = answer(seed, arrival.call.number, send.attempt)
                await asyncio.sleep(takes)
                return outcome

            await asyncio.sleep(arrival.at - now())
            ends[arrival.call.number] = await driver.run(arrival.call, sender)

        tasks = []
        for arrival in arrivals(rules, seed):
            task = asyncio.create_task(one(arrival))
            if arrival.cancelled_at != math.inf:
                loop.call_at(arrival.cancelled_at, task.cancel)
            tasks.append(task)
        await asyncio.wait(tasks)

    run(main)
    return events, ends


@functools.cache
def in_virtual_time(rules, seed):
    events, ends = [], {}
    engine, timeline = Engine(rules), Timeline()
    engine.listeners.append(events.append)
    driver = VirtualDriver(engine, timeline, chance=chance_of(timeline.time))

    def begin(arrival):
        number = arrival.call.number

        def sender(send, reply):
            outcome, takes = answer(seed, number, send.attempt)
            timeline.at(timeline.now + takes, lambda: reply(outcome))

        cancel = driver.start(arrival.call, sender, lambda ended: ends.__setitem__(number, ended))
        if arrival.cancelled_at != math.inf:
            timeline.at(arrival.cancelled_at, cancel)

    for arrival in arrivals(rules, seed):
        timeline.at(arrival.at, lambda arrival=arrival: begin(arrival))
    timeline.run()
    return events, ends


def in_threads(rules, seed):
    events, ends, threads = [], {}, Threads()
    engine = Engine(rules)
    engine.listeners.append(events.append)
    driver = ThreadDriver(
        engine, clock=threads.time, chance=chance_of(threads.time), parking=threads.parking
    )

    def one(arrival):
        number = arrival.call.number

        def sender(send):
            outcome, takes = answer(seed, number, send.attempt)
            if send.timeout is not None and takes > send.timeout:
                threads.sleep(send.timeout)
                return TIMED_OUT
            threads.sleep(takes)
            return outcome

        ends[number] = run_call(driver, arrival.call, sender)

    for arrival in arrivals(rules, seed):
        thread = threads.spawn(arrival.at, lambda arrival=arrival: one(arrival))
        if arrival.cancelled_at != math.inf:
            threads.at(arrival.cancelled_at, lambda thread=thread: threads.cancel(thread))
    threads.run()
    return events, ends


def by_subject(events):
    """Events of each call and each target in their order, times apart from the rest."""
    facts, times = defaultdict(list), defaultdict(list)
    for event in events:
        subject = getattr(event, "call", str(event.target))
        values = event._asdict().values()
        facts[subject].append(
            (type(event).__name__, *[v for v in values if not isinstance(v, float)])
        )
        times[subject].extend(v for v in values if isinstance(v, float))
    return facts, times


CASES = [(name, driven) for name in POLICIES for driven in (under_asyncio, in_threads)]
CASES.remove(("hedged", in_threads))  # threads cannot race: see the next test


@table_test(("name", "driven"), CASES)
@table_test("seed", range(4))
def test_all_drivers_give_the_same_events(name, seed, driven):
    virtual, virtual_ends = in_virtual_time(POLICIES[name], seed)
    real, real_ends = driven(POLICIES[name], seed)
    facts, times = by_subject(virtual)
    real_facts, real_times = by_subject(real)

    assert facts == real_facts
    for subject, expected in times.items():
        assert expected == pytest.approx(real_times[subject], abs=1e-6), subject
    assert {n: e.outcome.verdict for n, e in virtual_ends.items()} == {
        n: e.outcome.verdict for n, e in real_ends.items()
    }


def test_threads_that_cannot_cancel_attempts_send_no_hedges():
    events, ends = in_threads(POLICIES["hedged"], 0)

    assert len(ends) > 0.8 * CALLS
    assert not {Hedged, HedgeRefused, Overtaken} & {type(event) for event in events}


def test_the_scenarios_cover_all_events():
    """Events, gates, verdicts, rejections and circuit states."""
    kinds, gates, verdicts, rejected, circuits = Counter(), set(), set(), set(), set()
    for rules in POLICIES.values():
        for seed in range(4):
            for event in in_virtual_time(rules, seed)[0]:
                kinds[type(event).__name__] += 1
                gates.add(getattr(event, "gate", None))
                verdicts.add(getattr(event, "verdict", None))
                rejected.add(getattr(event, "policy", None))
                circuits.add(getattr(event, "after", None))

    assert all(count > 20 for count in kinds.values())
    assert len(kinds) == 13
    assert gates >= {"verdict", "attempts", "deadline", "patience", "budget"}
    assert verdicts >= {Verdict.OK, Verdict.TIMEOUT, Verdict.THROTTLED, Verdict.SERVER_ERROR}
    assert rejected >= {"breaker", "cooldown", "shed", "queue"}
    assert circuits >= {"open", "half_open", "closed"}
