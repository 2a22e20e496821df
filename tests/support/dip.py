"""One dip, played twice: on real sockets with the client, and in virtual time with the simulator.

The scenario runs in real seconds (speed 1), like the engine. The target has `SLOTS` slots for answers of `SERVICE`
seconds; from `FALL` to `RETURN` it has a fifth of them. Calls arrive evenly.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from stormbreak.core.engine import Engine
from stormbreak.core.presets import INTERACTIVE
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.http.client import AsyncClient
from stormbreak.provider.capacity_model import ProviderModel
from stormbreak.provider.scenario_file import parse
from stormbreak.storm.simulated_provider import SimulatedProvider
from stormbreak.testing import serve
from stormbreak.types import Call, Target, Verdict

SLOTS, SERVICE, RATE, DEADLINE = 50, 1.0, 40.0, 10.0
FALL, RETURN, END = 20.0, 40.0, 60.0
LEFT = SLOTS / 5
GOAL = 1.3 * LEFT  # of the limit, while the capacity is down
RULE = 1.5 * LEFT + 2  # the automatic limit after it has adapted to the remaining slots
EVERY = 0.05  # seconds between two samples of the limit
POLICY = replace(INTERACTIVE, deadline=DEADLINE, patience=DEADLINE, attempt_timeout=DEADLINE)
SCENARIO = f"""
name = "fifth"
speed = 1
duration = {END}

[provider]
slots = {SLOTS}
service = {SERVICE}
variation = 0.3
queue = 400

[[faults]]
kind = "capacity"
factor = 0.2
at = {FALL}
until = {RETURN}
"""


class CallResult(NamedTuple):
    """A call: its arrival, its end, and whether it was answered."""

    came: float
    at: float
    ok: bool


@dataclass
class Observations:
    """Samples of the limit, and the end of each call."""

    limits: list[tuple[float, int]]
    ended: list[CallResult]

    def settled(self, bound: float) -> float | None:
        """Seconds from the fall until the limit stays within `bound`; None if never."""
        down = [(at, limit) for at, limit in self.limits if FALL <= at < RETURN]
        above = [at for at, limit in down if limit > bound]
        if not above:
            return 0.0
        return above[-1] + EVERY - FALL if above[-1] < down[-1][0] else None

    def down(self, after: float) -> list[int]:
        """The limits while the capacity was down, starting `after` seconds after the fall."""
        return [limit for at, limit in self.limits if FALL + after <= at < RETURN]

    def lowest(self) -> int:
        """The lowest limit while the capacity was down."""
        return min(limit for at, limit in self.limits if FALL <= at < RETURN)

    def back(self) -> float | None:
        """Whole seconds from the return until 90 % of the usual rate is answered in each 3 s."""
        needed, second = 0.9 * RATE * 3, int(END) - 2
        while second > RETURN and self.answers(second - 1, second + 2) >= needed:
            second -= 1
        return None if second == int(END) - 2 else second - RETURN

    def answers(self, begins: float, ends: float) -> int:
        """The number of answers between two times."""
        return sum(call.ok and begins <= call.at < ends for call in self.ended)

    def goodput(self) -> float:
        """Answers while the capacity was down, relative to the possible ones."""
        return self.answers(FALL, RETURN) / (LEFT / SERVICE * (RETURN - FALL))


def simulated(seed=0, *, streamed=True):
    """Play the dip in virtual time."""
    timeline = Timeline()
    driver = VirtualDriver(Engine(POLICY), timeline)
    world = SimulatedProvider(ProviderModel(parse(SCENARIO), seed), timeline, streamed=streamed)
    target, seen = Target("p", "m"), Observations([], [])

    def arrive(number):
        now = timeline.now
        call = Call(driver.engine.number(), target, now + DEADLINE, DEADLINE, streams=streamed)
        send = partial(world.send, number, 0, 0, driver.first_output)
        driver.start(call, send, partial(end, now))

    def end(came, how):
        seen.ended.append(CallResult(came, timeline.now, how.outcome.verdict is Verdict.OK))

    def look():
        seen.limits.append((timeline.now, driver.engine.target_state(target).slots.limit))

    for number in range(int(END * RATE)):
        timeline.at(number / RATE, partial(arrive, number))
    for number in range(int(END / EVERY)):
        timeline.at(number * EVERY, look)
    timeline.run(until=END + DEADLINE)
    return seen


def live(seed=0, *, streamed=True):
    """Play the dip on sockets."""
    with serve(parse(SCENARIO), seed=seed) as provider:
        return asyncio.run(_live(provider.base_url, streamed))


async def _live(base_url, streamed):
    seen, began = Observations([], []), time.monotonic()

    async def call(client, number):
        came = number / RATE
        await asyncio.sleep(began + came - time.monotonic())
        try:
            await client.chat([{"role": "user", "content": str(number)}])
        except Exception:  # noqa: BLE001 - any failure counts
            ok = False
        else:
            ok = True
        seen.ended.append(CallResult(came, time.monotonic() - began, ok))

    async def look(client):
        slots = client.engine.target_state(client.target("m")).slots
        while True:
            seen.limits.append((time.monotonic() - began, slots.limit))
            await asyncio.sleep(EVERY)

    client = AsyncClient(base_url=base_url, model="m", policy=POLICY, stream_on_wire=streamed)
    async with client:
        looking = asyncio.create_task(look(client))
        await asyncio.gather(*[call(client, number) for number in range(int(END * RATE))])
        looking.cancel()
    return seen
