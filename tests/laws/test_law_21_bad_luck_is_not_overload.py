"""Law 21. Overload is not called bad luck, nor bad luck overload, for longer than ten seconds at a time.

Small random storms in virtual time, each with one fault only, in processes with at least one call a second.
Wrong under overload: "bad luck", or "none" while attempts fail. Wrong under bad luck: "overload" or "dead", a circuit that is not
closed, and a queue in front of the automatic limit.

A few seeds in a hundred may exceed the ten seconds. Bad luck may look like death, and then the proof of life takes as long
as a probe, or its timeout where the probe hangs. Overload looks like bad luck where the send rate holds us so far back
that answers are on time again, while others still fill the queue. Under overload a process is judged from the time when evidence can
exist: `ENOUGH` answers to attempts that left since it began, or `REFUSED` attempts that ended in any way.
"""

import random
from dataclasses import dataclass, replace
from functools import partial

import pytest

from stormbreak.core.breaker_policy import State
from stormbreak.core.diagnosis import Cause
from stormbreak.core.engine import Engine
from stormbreak.core.presets import INTERACTIVE
from stormbreak.drivers.garbage import collecting_less_often
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.events import Returned
from stormbreak.provider.capacity_model import ProviderModel
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.scenario import Fault, Load, Provider, Scenario, Step
from stormbreak.storm.measures import quantile
from stormbreak.storm.simulated_provider import SimulatedProvider
from stormbreak.storm.traffic import traffic
from stormbreak.types import Call, Target, Verdict

BEGINS, ENDS = 40.0, 100.0  # seconds
LOOK = 0.25  # seconds between two looks
AT_MOST = 10.0  # seconds
EXCEPTIONS = 0.05  # of the seeds may exceed `AT_MOST`
ENOUGH, REFUSED = 10, 40
TARGET = Target("storm", "storm-1")
LUCK = (Kind.S500, Kind.S503, Kind.S529, Kind.RESET, Kind.CUT_BODY, Kind.HANG, Kind.S429)


def scale(chance, low, high):
    return low * (high / low) ** chance.random()


def site(chance, use):
    """A provider with a utilization of `use`, and its clients."""
    slots = int(scale(chance, 5, 80))
    low, high = max(0.2, slots / 30), min(5.0, slots / 4)
    service = scale(chance, low, high) if low < high else high
    rate = max(1.0, use * slots / service)
    processes = chance.randint(1, max(1, min(8, int(rate))))
    timeout = service * chance.uniform(3, 10)
    deadline = timeout * chance.uniform(1.5, 6)
    return Scenario(
        name="law 21",
        duration=ENDS,
        provider=Provider(
            slots=slots,
            service=service,
            variation=chance.uniform(0.2, 1.2),
            queue=int(slots * scale(chance, 0.5, 20)),
            max_requests_per_second=max(40.0, 10 * slots / service),
        ),
        load=Load(rate=rate, processes=processes, timeout=timeout, deadline=deadline),
    )


def overload(seed):
    """1.3 to 5 times what the provider can serve: more traffic, or less capacity."""
    chance = random.Random(seed)
    storm = site(chance, chance.uniform(0.4, 0.8))
    capacity = storm.provider.slots / storm.provider.service
    factor = chance.uniform(1.3, 5.0)
    if chance.random() < 0.5:
        steps = (Step(at=BEGINS, rate=capacity * factor),)
        return replace(storm, load=replace(storm.load, steps=steps))
    left = storm.load.rate / capacity / factor
    return replace(storm, faults=(Fault(kind=Kind.CAPACITY, at=BEGINS, factor=left),))


def bad_luck(seed):
    """A share of all attempts fails whatever is sent; with all retries, capacity is ample."""
    chance = random.Random(seed)
    share = chance.uniform(0.1, 0.7)
    storm = site(chance, chance.uniform(0.1, 0.6) * (1 - share))
    kinds = chance.sample(LUCK, chance.randint(1, len(LUCK)))
    weights = [chance.uniform(0.2, 1.0) for _ in kinds]
    return replace(
        storm,
        faults=tuple(
            Fault(kind=kind, at=BEGINS, share=share * weight / sum(weights))
            for kind, weight in zip(kinds, weights, strict=True)
        ),
    )


@dataclass
class Process:
    """One process, and for how long it has been wrong."""

    engine: Engine
    answers: int = 0  # to attempts sent since the fault began
    ended: int = 0  # such attempts
    failed_at: float = 0.0
    wrong: float = 0.0  # seconds, until now
    longest: float = 0.0

    @property
    def state(self):
        return self.engine.target_state(TARGET)

    def on_event(self, event):
        if isinstance(event, Returned) and event.at - event.took >= BEGINS:
            answered = event.verdict is Verdict.OK
            self.ended += 1
            self.answers += answered
            if not answered:
                self.failed_at = event.at

    def look(self, is_wrong, now):
        self.wrong = self.wrong + LOOK if is_wrong(self, now) else 0.0
        self.longest = max(self.longest, self.wrong)


def wrong_in_overload(process, now):
    if process.answers < ENOUGH and process.ended < REFUSED:
        return False
    cause = process.state.diagnosis.cause(now)
    fails = now - process.failed_at <= 1.0
    return cause is Cause.BAD_LUCK or (cause is Cause.NONE and fails)


def wrong_in_bad_luck(process, now):
    target_state = process.state
    slots = target_state.slots
    held = target_state.admission.queued and slots.binds(now) and slots.in_flight >= slots.limit
    cause = target_state.diagnosis.cause(now)
    shut = target_state.breaker.state_at(now) is not State.CLOSED
    return bool(cause in (Cause.OVERLOAD, Cause.DEAD) or shut or held)


@collecting_less_often()
def longest_wrong(storm, seed, is_wrong):
    """The longest time for which a process was wrong without a break, in seconds."""
    load, timeline = storm.load, Timeline()
    world = SimulatedProvider(ProviderModel(storm, seed), timeline)
    policy = replace(
        INTERACTIVE, deadline=load.deadline, patience=load.deadline, attempt_timeout=load.timeout
    )
    calls = traffic(load, storm.duration, seed)
    processes = [Process(Engine(policy)) for _ in range(load.processes)]
    drivers = []
    for number, process in enumerate(processes):
        process.engine.listeners.append(process.on_event)
        luck = random.Random(1_000 * seed + number).random
        drivers.append(VirtualDriver(process.engine, timeline, chance=luck))

    def start(number):
        driver = drivers[calls.processes[number]]
        deadline_at = timeline.now + load.deadline
        call = Call(driver.engine.number(), TARGET, deadline_at=deadline_at, patience=load.deadline)
        driver.start(call, partial(world.send, number, 0, 0, driver.first_output), lambda _: None)

    for number, at in enumerate(calls.times):
        timeline.at(at, partial(start, number))
    timeline.run(BEGINS)
    while timeline.now < ENDS:
        timeline.run(timeline.now + LOOK)
        for process in processes:
            process.look(is_wrong, timeline.now)
    return max(process.longest for process in processes)


STORMS = [(overload, wrong_in_overload), (bad_luck, wrong_in_bad_luck)]


@pytest.mark.parametrize(("storm", "is_wrong"), STORMS, ids=["overload", "bad luck"])
@pytest.mark.parametrize(
    "seeds", [range(10, 20), pytest.param(range(200), marks=pytest.mark.prove)], ids=["10", "200"]
)
def test_in_nearly_all_storms_the_diagnosis_is_wrong_for_ten_seconds_at_most(
    storm, is_wrong, seeds
):
    longest = {seed: longest_wrong(storm(seed), seed, is_wrong) for seed in seeds}
    over = {seed: seconds for seed, seconds in longest.items() if seconds > AT_MOST}
    median, p90 = (quantile(sorted(longest.values()), share) for share in (0.5, 0.9))
    print(f"median {median:.1f} s, p90 {p90:.1f} s; above {AT_MOST:.0f} s: {over}")

    assert len(over) <= EXCEPTIONS * len(longest)
