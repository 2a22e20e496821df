"""Simulate one scenario with one policy and one seed.

Every process is a real engine under a virtual driver; all share one timeline and one provider model. `[load]` replaces
the crowd. Where the load is a batch, its calls are rows, which are sent again as `batch run` does; baselines keep
their own ways. Arrivals, the process of each call, the provider and each engine draw from streams of chance of their own,
so that policies are compared on the same calls, which meet the same luck at their first, second, third attempt.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import ceil, nextafter
from typing import NamedTuple

from stormbreak.core.automatic_limit import AutomaticLimiter
from stormbreak.core.circuit import State
from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.core.presets import OFF, for_batch
from stormbreak.core.row_schedule import RowAttempt
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.target_state import Listener, TargetState
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.errors import ConfigurationError
from stormbreak.provider.chance import mix
from stormbreak.provider.model import ProviderModel
from stormbreak.provider.scenario import Load, Scenario
from stormbreak.storm.ideal import check_length, ideal_throughput
from stormbreak.storm.measures import Observed, Record, measure
from stormbreak.storm.outcomes import check_playable
from stormbreak.storm.policies import NamedPolicy
from stormbreak.storm.result import Look, Result, series
from stormbreak.storm.simulated_batch import Batch
from stormbreak.storm.simulated_provider import Sent, SimulatedProvider
from stormbreak.storm.traffic import Traffic, check_measured, traffic
from stormbreak.types import Call, CallResult, Target, Verdict

# ---------------------------------------------------------------- sampling
# Looks at all processes once in each second, and changes nothing in them. A process in which
# nothing is under way stands still: it is not looked at again until a call arrives in it.


class _Standing(NamedTuple):
    """The limit of one process; whether it binds; whether its circuit is not closed."""

    limit: int
    binds: bool
    shut: bool


class Watch:
    """Sums up what stands in the `lanes`, one for each process, and in the provider."""

    def __init__(
        self, lanes: Sequence[TargetState], model: ProviderModel, *, limited: bool
    ) -> None:
        """`limited`: whether the policy has a limit at all."""
        self._lanes = lanes
        self._model = model
        self._limited = limited
        self._awake: set[int] = set()
        self._asleep = {number: _standing(lane, 0.0) for number, lane in enumerate(lanes)}
        self._limit = sum(stands.limit for stands in self._asleep.values())  # of those asleep, ...
        self._binding = sum(stands.binds for stands in self._asleep.values())
        self._shut = sum(stands.shut for stands in self._asleep.values())

    def wake(self, process: int) -> None:
        """Say that a call arrives in a process."""
        if process not in self._awake:
            self._awake.add(process)
            self._count(self._asleep.pop(process), -1)

    def look(self, now: float) -> Look:
        """Say what stands now."""
        in_flight = queued = limit = binding = shut = 0
        for process in list(self._awake):
            lane = self._lanes[process]
            stands = _standing(lane, now)
            in_flight += lane.slots.in_flight
            queued += lane.admission.queued
            limit += stands.limit
            binding += stands.binds
            shut += stands.shut
            if lane.idle and not (stands.binds and isinstance(lane.slots, AutomaticLimiter)):
                self._awake.remove(process)
                self._asleep[process] = stands
                self._count(stands, 1)
                limit, binding, shut = (
                    limit - stands.limit,
                    binding - stands.binds,
                    shut - stands.shut,
                )
        binding += self._binding
        return Look(
            in_flight=in_flight,
            queued=queued,
            limit=limit + self._limit if self._limited and binding == len(self._lanes) else None,
            limited=binding if self._limited else 0,
            open_circuits=shut + self._shut,
            queued_at_provider=self._model.queued,
            wasted=self._model.clients.wasted_work,
        )

    def _count(self, stands: _Standing, sign: int) -> None:
        self._limit += sign * stands.limit
        self._binding += sign * stands.binds
        self._shut += sign * stands.shut


def _standing(lane: TargetState, now: float) -> _Standing:
    slots, breaker = lane.slots, lane.breaker
    shut = breaker is not None and breaker.state is not State.CLOSED
    return _Standing(slots.limit, slots.binds(now), shut)


# ---------------------------------------------------------------- simulation

TARGET = Target("storm", "storm-1")

_CHANCE = 0xC3  # key of the engines' streams
_PAUSES = 0xD4  # and of the batches', for the time when a row comes back
_BATCH = "batch"  # preset of a load whose calls are rows
_AFTERWARDS = 1.0  # seconds; the last call ends at its deadline
_STRIDE = 0.01  # of a simulation, after which its progress is told

Progress = Callable[[float], None]


def simulate(
    scenario: Scenario,
    policy: NamedPolicy | Policy,
    *,
    seed: int = 0,
    shared: bool = False,
    first_output: bool = False,
    listener: Listener | None = None,
    progress: Progress | None = None,
) -> Result:
    """Play `scenario` against `policy`, in virtual time: half an hour takes seconds.

    Args:
        scenario: what happens (`stormbreak.provider.scenario_file.load` reads one by its name); its load says how many
            processes there are, and their deadline and timeout.
        policy: how calls are treated; its deadline, patience and attempt timeout are replaced by the scenario's.
        seed: the same seed gives the same calls, luck and events.
        shared: whether all processes share one engine.
        first_output: whether answers are streamed on the wire, so that clients see the first output of each.
        listener: gets every event of every engine.
        progress: is told from time to time which share of the time has passed.

    Raises:
        ConfigurationError: the scenario has no load, none that is measured, or too much of it.
    """
    if scenario.load is None:
        raise ConfigurationError(f"{scenario.name}: a simulation needs a [load], got none")
    check_length(scenario)
    check_playable(scenario)
    contender = policy if isinstance(policy, NamedPolicy) else NamedPolicy(name="", policy=policy)
    calls = traffic(scenario.load, scenario.duration, seed)
    check_measured(scenario, calls)
    fleet = _Fleet(
        scenario, scenario.load, contender, calls, seed=seed, shared=shared, streamed=first_output
    )
    if listener is not None:
        fleet.listen(listener)
    fleet.run(scenario.duration, progress)
    ideal = ideal_throughput(scenario, calls.times)
    records, observed = fleet.records, fleet.observed()
    return Result(
        scenario=scenario.name,
        policy=contender.name,
        seed=seed,
        measures=measure(records, ideal, scenario.load, observed, duration=scenario.duration),
        series=series(records, ideal, observed.attempts, fleet.looks),
    )


class _Fleet:
    """All processes, and the world around them."""

    def __init__(
        self,
        scenario: Scenario,
        load: Load,
        contender: NamedPolicy,
        calls: Traffic,
        *,
        seed: int,
        shared: bool,
        streamed: bool,
    ) -> None:
        self._load = load
        self._streamed = streamed
        self._calls = calls
        in_batches = contender.reschedules and load.preset == _BATCH
        policy = for_batch(contender.policy) if in_batches else contender.policy
        self._policy = _under(policy, load)
        self._timeline = Timeline()
        crowd = scenario.background_traffic if load.keep_background_traffic else None
        self._model = ProviderModel(replace(scenario, background_traffic=crowd), seed)
        self._world = SimulatedProvider(
            self._model, self._timeline, deaf=contender.deaf, streamed=streamed
        )
        count = 1 if shared else load.processes
        self._drivers = [self._process(number, seed) for number in range(count)]
        self._lanes = [driver.engine.target_state(TARGET) for driver in self._drivers]
        self._batches = [
            self._batch(policy, number, seed) for number in range(count if in_batches else 0)
        ]
        self._watch = Watch(self._lanes, self._model, limited=contender.policy.limit != OFF.limit)
        self.looks: list[Look] = []  # at the end of each second
        self._ended: list[Record | None] = [None] * len(calls.times)

    def _process(self, number: int, seed: int) -> VirtualDriver:
        chance = _chance(seed, _CHANCE, number)
        return VirtualDriver(Engine(self._policy), self._timeline, chance=chance)

    def _batch(self, policy: Policy, process: int, seed: int) -> Batch:
        batch = Batch(
            policy,
            self._timeline,
            self._lanes[process],
            chance=_chance(seed, _PAUSES, process),
            start=partial(self._start, process),
            end=self._record,
        )
        self._drivers[process].engine.listeners.append(batch.hear)
        return batch

    def listen(self, listener: Listener) -> None:
        for driver in self._drivers:
            driver.engine.listeners.append(listener)

    def run(self, duration: float, progress: Progress | None) -> None:
        """Let all calls arrive and end."""
        if self._calls.times:
            self._timeline.at(self._calls.times[0], partial(self._arrive, 0))
        until = duration + self._load.deadline + _AFTERWARDS
        told = 0.0
        for second in range(1, ceil(until) + 1):
            self._timeline.run(
                min(until, nextafter(second, 0.0))
            )  # what is due then is of the next
            self.looks.append(self._look())
            if progress is not None and second / until >= told + _STRIDE:
                told = min(1.0, second / until)
                progress(told)
        self._timeline.run(until)
        if progress is not None:
            progress(1.0)

    @property
    def records(self) -> list[Record]:
        """Every call, in order of arrival. All have ended, and nothing of theirs is held any more."""
        records = [record for record in self._ended if record is not None]
        held = sum(lane.slots.in_flight + lane.admission.queued for lane in self._lanes)
        if len(records) < len(self._ended) or held:
            lost = len(self._ended) - len(records)
            raise RuntimeError(f"{lost} calls never ended, {held} permits and tickets are held")
        return records

    def observed(self) -> Observed:
        """What was seen of the provider and the circuits."""
        tally = self._model.clients
        openings = sum(lane.openings for lane in self._lanes)
        wasted = tally.wasted_work / tally.work if tally.work else 0.0
        return Observed(self._world.attempts, wasted, openings)

    def _arrive(self, number: int) -> None:
        calls, timeline = self._calls, self._timeline
        if number + 1 < len(calls.times):
            timeline.at(calls.times[number + 1], partial(self._arrive, number + 1))
        process = calls.processes[number] % len(self._drivers)
        if self._batches:
            self._batches[process].add(number)
        else:
            self._start(process, RowAttempt(index=number), partial(self._end, number))

    def _start(self, process: int, turn: RowAttempt, done: Callable[[CallResult], None]) -> None:
        """Start a call, or one of those of a row."""
        self._watch.wake(process)
        driver, tokens = self._drivers[process], self._calls.tokens[turn.index]
        driver.start(
            self._call(driver.engine, turn, tokens),
            partial(self._world.send, Sent(turn.index, tokens, turn.attempts), driver.first_output),
            done,
        )

    def _call(self, engine: Engine, turn: RowAttempt, tokens: int) -> Call:
        return Call(
            engine.number(),
            TARGET,
            deadline_at=self._calls.times[turn.index] + self._load.deadline,
            patience=self._load.deadline,
            priority=self._policy.priority,
            fail_fast=self._policy.fail_fast,
            streams=self._streamed,
            tokens=tokens,
            max_attempts=turn.left if self._batches else None,
        )

    def _end(self, number: int, ended: CallResult) -> None:
        self._record(
            number,
            answered=ended.outcome.verdict is Verdict.OK,
            attempts=ended.attempts,
            queued=ended.queued,
        )

    def _record(self, number: int, *, answered: bool, attempts: int, queued: float) -> None:
        self._ended[number] = Record(
            self._calls.times[number], self._timeline.now, answered, attempts, queued
        )

    def _look(self) -> Look:
        look = self._watch.look(self._timeline.now)
        if not self._batches:
            return look
        return look._replace(queued=look.queued + sum(batch.waiting for batch in self._batches))


def _chance(seed: int, key: int, number: int) -> Callable[[], float]:
    return random.Random(mix(mix(mix(seed) ^ key) + number)).random  # noqa: S311


def _under(policy: Policy, load: Load) -> Policy:
    """The policy with the deadline, patience and attempt timeout of the scenario; what is simulated has no price."""
    return replace(
        policy,
        deadline=load.deadline,
        patience=load.deadline,
        attempt_timeout=load.timeout,
        spend=SpendPolicy(),
    )
