"""Simulate one scenario with one policy and one seed.

Every process is a real engine under a virtual driver; all share one timeline and one provider model. `[load]` replaces
the background traffic. In a batch, calls are rows. Arrivals, the process of each call, the provider and each engine have
separate random streams: policies are compared on the same calls, with the same draws at each of their attempts.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import ceil, inf, nextafter
from typing import NamedTuple

from stormbreak.core.automatic_limit import AutomaticLimiter
from stormbreak.core.breaker_policy import State
from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.core.presets import OFF, for_batch
from stormbreak.core.row_schedule import RowAttempt
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.target_state import Listener, TargetState
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.errors import ConfigurationError
from stormbreak.fleet.virtual import VirtualStore
from stormbreak.provider.capacity_model import ProviderModel
from stormbreak.provider.chance import mix
from stormbreak.provider.scenario import Load, Scenario
from stormbreak.storm.ideal import check_length, ideal_throughput
from stormbreak.storm.measures import Observed, Record, measure
from stormbreak.storm.policies import NamedPolicy
from stormbreak.storm.result import Result, Sample, series
from stormbreak.storm.simulated_batch import Batch
from stormbreak.storm.simulated_provider import SimulatedProvider, check_playable
from stormbreak.storm.traffic import Traffic, check_measured, traffic
from stormbreak.types import VERDICT_OK, Call, CallResult, Target

# ---------------------------------------------------------------- sampling
# Samples all processes once a second and changes nothing in them. An idle process does not
# change: it is not sampled again until a call arrives in it.


class _ProcessState(NamedTuple):
    """The limit of one process; whether the limit binds; whether the circuit is not closed."""

    limit: int
    binds: bool
    open_circuit: bool


class Sampler:
    """Sums the states of the `targets`, one for each process, and of the provider."""

    def __init__(
        self, targets: Sequence[TargetState], model: ProviderModel, *, limited: bool
    ) -> None:
        """`limited`: whether the policy has a limit at all."""
        self._targets = targets
        self._model = model
        self._limited = limited
        self._active: set[int] = set()
        self._idle = {number: _state_of(target, 0.0) for number, target in enumerate(targets)}
        self._limit = self._binding = self._open_circuits = 0  # of idle processes
        for state in self._idle.values():
            self._count(state, 1)

    def wake(self, process: int) -> None:
        """Sample a process again: a call arrives in it."""
        if process not in self._active:
            self._active.add(process)
            self._count(self._idle.pop(process), -1)

    def sample(self, now: float) -> Sample:
        in_flight = queued = 0
        limit, binding, open_circuits = self._limit, self._binding, self._open_circuits
        for process in list(self._active):
            target = self._targets[process]
            state = _state_of(target, now)
            in_flight += target.slots.in_flight
            queued += target.admission.queued
            limit += state.limit
            binding += state.binds
            open_circuits += state.open_circuit
            if target.idle and not (state.binds and isinstance(target.slots, AutomaticLimiter)):
                self._active.remove(process)
                self._idle[process] = state
                self._count(state, 1)
        return Sample(
            in_flight=in_flight,
            queued=queued,
            limit=limit if self._limited and binding == len(self._targets) else None,
            limited=binding if self._limited else 0,
            open_circuits=open_circuits,
            queued_at_provider=self._model.queued,
            wasted=self._model.clients.wasted_work,
        )

    def _count(self, state: _ProcessState, sign: int) -> None:
        self._limit += sign * state.limit
        self._binding += sign * state.binds
        self._open_circuits += sign * state.open_circuit


def _state_of(target: TargetState, now: float) -> _ProcessState:
    slots, breaker = target.slots, target.breaker
    open_circuit = breaker is not None and breaker.state is not State.CLOSED
    return _ProcessState(slots.limit, slots.binds(now), open_circuit)


# ---------------------------------------------------------------- simulation

TARGET = Target("storm", "storm-1")

_CHANCE = 0xC3  # key of the engines' random streams
_PAUSES = 0xD4  # and of the batches', for the pauses of rows
_BATCH = "batch"  # preset of a load whose calls are rows
_AFTERWARDS = 1.0  # seconds; the last call ends at its deadline
_STRIDE = 0.01  # of a simulation between reports of progress

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
        scenario: its load gives the number of processes, their deadline and timeout.
        policy: its deadline, patience and attempt timeout are replaced by the scenario's.
        seed: the same seed gives the same calls, draws and events.
        shared: whether all processes share one engine.
        first_output: whether answers are streamed, so that clients see the first output of each.
        listener: gets every event of every engine.
        progress: called now and then with the finished share of the simulated time.

    Raises:
        ConfigurationError: the scenario has no load, no measured call, or too many calls.
    """
    if scenario.load is None:
        raise ConfigurationError(f"{scenario.name}: a simulation needs a [load], got none")
    check_length(scenario)
    check_playable(scenario)
    named = policy if isinstance(policy, NamedPolicy) else NamedPolicy(name="", policy=policy)
    calls = traffic(scenario.load, scenario.duration, seed)
    check_measured(scenario, calls)
    fleet = _Fleet(
        scenario, scenario.load, named, calls, seed=seed, shared=shared, streamed=first_output
    )
    if listener is not None:
        fleet.listen(listener)
    fleet.run(scenario.duration, progress)
    ideal = ideal_throughput(scenario, calls.times)
    records, observed = fleet.records, fleet.observed()
    return Result(
        scenario=scenario.name,
        policy=named.name,
        seed=seed,
        measures=measure(records, ideal, scenario.load, observed, duration=scenario.duration),
        series=series(records, ideal, observed.attempts, fleet.samples),
    )


class _Fleet:
    """All processes, and the provider."""

    def __init__(
        self,
        scenario: Scenario,
        load: Load,
        named: NamedPolicy,
        calls: Traffic,
        *,
        seed: int,
        shared: bool,
        streamed: bool,
    ) -> None:
        self._load = load
        self._streamed = streamed
        self._calls = calls
        in_batches = named.reschedules and load.preset == _BATCH
        policy = for_batch(named.policy) if in_batches else named.policy
        self._policy = _with_load_limits(policy, load, own_times=named.own_times)
        self._timeline = Timeline()
        self._store = VirtualStore(self._timeline, seed=seed)
        background = scenario.background_traffic if load.keep_background_traffic else None
        self._model = ProviderModel(replace(scenario, background_traffic=background), seed)
        self._world = SimulatedProvider(
            self._model,
            self._timeline,
            ignores_retry_after=named.ignores_retry_after,
            streamed=streamed,
        )
        count = 1 if shared else load.processes
        self._drivers = [self._process(number, seed) for number in range(count)]
        self._targets = [driver.engine.target_state(TARGET) for driver in self._drivers]
        self._batches = [
            self._batch(policy, number, seed) for number in range(count if in_batches else 0)
        ]
        self._sampler = Sampler(self._targets, self._model, limited=named.policy.limit != OFF.limit)
        self.samples: list[Sample] = []  # at the end of each second
        self._arrived = 0  # calls
        self._ended: list[Record | None] = [None] * len(calls.times)

    def _process(self, number: int, seed: int) -> VirtualDriver:
        chance = _chance(seed, _CHANCE, number)
        fleet = self._store.fleet() if self._policy.fleet.acts else None
        return VirtualDriver(Engine(self._policy, fleet=fleet), self._timeline, chance=chance)

    def _batch(self, policy: Policy, process: int, seed: int) -> Batch:
        def start(row: RowAttempt, done: Callable[[CallResult], None]) -> None:
            self._start(process, row.index, done, before=row.attempts, left=row.left)

        target, chance = self._targets[process], _chance(seed, _PAUSES, process)
        batch = Batch(policy, self._timeline, target, chance=chance, start=start, end=self._record)
        self._drivers[process].engine.listeners.append(batch.on_event)
        return batch

    def listen(self, listener: Listener) -> None:
        for driver in self._drivers:
            driver.engine.listeners.append(listener)

    def run(self, duration: float, progress: Progress | None) -> None:
        if self._calls.times:
            self._timeline.at(self._calls.times[0], self._arrive)
        until = duration + self._load.deadline + _AFTERWARDS
        reported = 0.0
        for second in range(1, ceil(until) + 1):
            # events at the end belong to the next second
            self._timeline.run(min(until, nextafter(second, 0.0)))
            self.samples.append(self._sample())
            if progress is not None and second / until >= reported + _STRIDE:
                reported = min(1.0, second / until)
                progress(reported)
        self._timeline.run(until)
        if progress is not None:
            progress(1.0)

    @property
    def records(self) -> list[Record]:
        """All calls, in order of arrival. Raises RuntimeError if a call has not ended or holds a permit."""
        records = [record for record in self._ended if record is not None]
        held = sum(target.slots.in_flight + target.admission.queued for target in self._targets)
        if len(records) < len(self._ended) or held:
            lost = len(self._ended) - len(records)
            raise RuntimeError(f"{lost} calls never ended, {held} permits and tickets are held")
        return records

    def observed(self) -> Observed:
        tally = self._model.clients
        openings = sum(target.openings for target in self._targets)
        wasted = tally.wasted_work / tally.work if tally.work else 0.0
        return Observed(self._world.attempts, wasted, openings)

    def _arrive(self) -> None:
        calls, number = self._calls, self._arrived
        self._arrived = number + 1
        if number + 1 < len(calls.times):
            self._timeline.at(calls.times[number + 1], self._arrive)
        process = calls.processes[number] % len(self._drivers)
        if self._batches:
            self._batches[process].add(number)
        else:
            self._start(process, number, partial(self._end, number))

    def _start(
        self,
        process: int,
        number: int,
        done: Callable[[CallResult], None],
        *,
        before: int = 0,
        left: int | None = None,
    ) -> None:
        """Start a call. For a row: it was sent `before` times and has `left` attempts left."""
        self._sampler.wake(process)
        driver, tokens, policy = self._drivers[process], self._calls.tokens[number], self._policy
        call = Call(
            driver.engine.number(),
            TARGET,
            self._calls.times[number] + (policy.deadline or 0.0),
            policy.patience,
            policy.priority,
            policy.fail_fast,
            max_attempts=left,
            streams=self._streamed,
            tokens=tokens,
        )
        send = partial(self._world.send, number, tokens, before, driver.first_output)
        driver.start(call, send, done)

    def _end(self, number: int, ended: CallResult) -> None:
        answered = ended.outcome.verdict is VERDICT_OK
        self._record(number, answered=answered, attempts=ended.attempts, queued=ended.queued)

    def _record(self, number: int, *, answered: bool, attempts: int, queued: float) -> None:
        times = self._calls.times[number], self._timeline.now
        # The constructor of a NamedTuple is a Python function and takes twice as long.
        self._ended[number] = tuple.__new__(Record, (*times, answered, attempts, queued))

    def _sample(self) -> Sample:
        sample = self._sampler.sample(self._timeline.now)
        if not self._batches:
            return sample
        return sample._replace(queued=sample.queued + sum(batch.waiting for batch in self._batches))


def _chance(seed: int, key: int, number: int) -> Callable[[], float]:
    return random.Random(mix(mix(mix(seed) ^ key) + number)).random  # noqa: S311


def _with_load_limits(policy: Policy, load: Load, *, own_times: bool) -> Policy:
    """The policy with the deadline, patience and attempt timeout of the scenario, and without spending.

    With `own_times` it keeps a shorter deadline and patience: the user still waits as long as the scenario says.
    """
    kept = policy if own_times else replace(policy, deadline=None, patience=None)
    deadline = min(kept.deadline or inf, load.deadline)
    return replace(
        policy,
        deadline=deadline,
        patience=min(kept.patience or inf, load.deadline),
        attempt_timeout=load.timeout,
        spend=SpendPolicy(),
    )
