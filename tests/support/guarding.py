"""`Resilient` in virtual time, in threads and on a loop, around scripted functions."""

import asyncio

from stage import policy
from virtual_loop import run
from virtual_threads import Threads

from stormbreak.core.backoff import Backoff
from stormbreak.core.engine import Engine
from stormbreak.core.retry import RetryPolicy
from stormbreak.functions.outcome_rules import Rules
from stormbreak.functions.resilient import Resilient
from stormbreak.types import Target

PRICES = Target("prices", "")
QUICK = policy(
    retry=RetryPolicy(
        max_attempts=3, backoff=Backoff(kind="constant", initial_delay=0.001), min_time_left=0.0
    )
)
"""Three attempts, next to no backoff, and nothing else: for real time."""


class DownError(Exception):
    """The error that most tests retry."""


class Script:
    """Steps, one per attempt: the value that it returns or the error that it raises, and after how many seconds."""

    def __init__(self, *steps):
        self.left = list(steps)
        self.made = 0

    def step(self):
        self.made += 1
        what = self.left.pop(0)
        return what if isinstance(what, tuple) else (what, 0.0)

    def come_to(self, what):
        if isinstance(what, BaseException):
            raise what
        return what

    def __call__(self):
        return self.come_to(self.step()[0])

    async def later(self):
        what, takes = self.step()
        await asyncio.sleep(takes)
        return self.come_to(what)


def made(rules=QUICK, *, on=DownError, failed_result=None, retry_after=None, engine=None, **more):
    """A `Resilient` whose calls can be counted."""
    how = Rules(on, failed_result, retry_after)
    return Resilient(engine or Engine(rules), how, **{"target": PRICES, **more})


def in_threads(main, rules, **more):
    """Run `main(guard, sleep)` on a thread in virtual time; return its value and the events."""
    threads, events, results = Threads(), [], []
    guard = made(rules, clock=threads.time, chance=_odd, parking=threads.parking, **more)
    guard.subscribe(events.append)
    threads.spawn(0.0, lambda: results.append(main(guard, threads.sleep)))
    threads.run()
    return results[0], events


def on_a_loop(main, rules, **more):
    """Run `await main(guard)` on a loop in virtual time; return its value and the events."""
    events = []

    async def body():
        clock = asyncio.get_running_loop().time
        guard = made(rules, clock=clock, chance=_odd, **more)
        guard.subscribe(events.append)
        return await main(guard)

    return run(body), events


def _odd():
    """A chance that keeps events from the edge of a limit: threads and loop round differently."""
    return 0.4871


def at_rest(guard):
    """Whether no slot is held and no call waits."""
    state = guard.snapshot()["targets"].values()
    return all((one["in_flight"], one["queued"]) == (0, 0) for one in state)
