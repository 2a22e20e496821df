"""Run one live storm against one program, from the rehearsal call to the measures, on one event loop.

The provider runs in this process and starts scenario time with the storm; calls are sent and expire by scenario time.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from stormbreak.provider.chance import mix
from stormbreak.provider.scenario import Load, Scenario
from stormbreak.provider.server import ProviderServer
from stormbreak.storm.ideal import check_length, ideal_throughput
from stormbreak.storm.live.cpu_load import CpuLoad, PeakCpuLoad
from stormbreak.storm.live.observations import Bounds, Observations, Prompts, waits
from stormbreak.storm.live.programs import Copy, Program, ProgramError, environment, start, stop
from stormbreak.storm.live.scaling import rehearsal
from stormbreak.storm.measures import Observed, measure
from stormbreak.storm.result import Result, series
from stormbreak.storm.traffic import Traffic, check_measured, traffic

PATIENCE = 60.0  # real seconds for the first call of a program
_LOOK = 0.05  # real seconds between checks of the programs
_SLOW_START = 5.0  # real seconds until the request of a first call
_AFTERWARDS = 1.0  # scenario seconds; the last call ends at its deadline
_NOTHING = Traffic([], [], [])


class Moment(NamedTuple):
    """The progress of a storm: the scenario time, and the counts so far."""

    now: float
    until: float
    calls: int
    attempts: int
    answers: int


Progress = Callable[[Moment], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """The result of a live storm, with the exit codes of the copies; None: the copy was stopped."""

    result: Result  # without `openings`, which are unknown
    unmatched_requests: int  # requests without a prompt of the storm
    exits: tuple[int | None, ...]
    latest: float  # the maximum delay in sending a call to a program, real seconds
    busiest: PeakCpuLoad


async def play(
    scenario: Scenario,
    program: Program,
    *,
    seed: int = 0,
    copies: int = 1,
    speed: float = 1.0,
    own_traffic: bool = False,
    progress: Progress | None = None,
) -> Played:
    """Play a scenario, as `staged` made it, against copies of a program. A cancel ends them all.

    Raises:
        ConfigurationError: the scenario cannot be played, or the program cannot be started.
        ProgramError: the program sent no request, or ended before it got all its calls.
    """
    load = scenario.load
    assert load is not None
    check_length(scenario)
    calls = _NOTHING
    if not own_traffic:
        calls = traffic(load, scenario.duration, seed)
        check_measured(scenario, calls)
    server = ProviderServer(scenario, seed=seed, speed=speed)
    await server.start()
    running: list[Copy] = []
    name = f"storm {mix(seed):016x}"[:12]
    first = Prompts(f"rehearsal of {name}")
    try:
        storm = _Storm(server, program.name, running, scenario, load, progress)
        if own_traffic:
            storm.observe()
        else:
            storm.observe_rehearsal(first)
        await start(program, running, copies, environment(server.base_url), fed=not own_traffic)
        if own_traffic:
            await storm.wait_for()
        else:
            await storm.send_calls(calls, first, Prompts(name))
        return storm.played(program.name, seed, calls)
    finally:
        await stop(running)
        await server.close()


@dataclass(slots=True, eq=False)
class _Storm:
    """The state of a running storm."""

    server: ProviderServer
    name: str
    copies: Sequence[Copy]
    scenario: Scenario
    load: Load
    progress: Progress | None
    seen: Observations = field(default_factory=lambda: Observations(lambda asked: asked.digest))
    busiest: PeakCpuLoad = field(default_factory=PeakCpuLoad)
    sent: int = 0
    latest: float = 0.0

    # ------------------------------------------------------------ calls sent to the program

    def observe_rehearsal(self, prompts: Prompts) -> None:
        """Observe requests, without faults, from now on: a copy may send one before its first call, and end."""
        self._observe(rehearsal(self.scenario), prompts)

    def _observe(self, scenario: Scenario, prompts: Prompts) -> None:
        self.seen = Observations(lambda asked: prompts.number_in(asked.essence))
        self.server.play(scenario, self.seen)

    async def send_calls(self, calls: Traffic, first: Prompts, prompts: Prompts) -> None:
        """Rehearse, then send every call when it is due, until the last has ended."""
        bounds = Bounds(
            model=next(iter(self.scenario.provider.models), "storm-1"),
            deadline=self.load.deadline / self.server.speed,
            timeout=self.load.timeout / self.server.speed,
        )
        await self._rehearse(first, bounds)
        self._observe(self.scenario, prompts)
        self.server.begin()
        feeding = asyncio.create_task(self._feed(calls, prompts, bounds))
        try:
            await self._watch(feeding)
            self._notify()
        finally:
            feeding.cancel()

    async def _rehearse(self, prompts: Prompts, bounds: Bounds) -> None:
        """Send one call to each copy without faults: a copy that handles it has started and found the provider.

        It has the deadline and timeout of the storm, since programs configure themselves by their first line. A copy
        that starts so slowly that it gives up the call gets it again.
        """
        seen = self.seen
        loop = asyncio.get_running_loop()
        end, send_at = loop.time() + PATIENCE, 0.0
        while seen.answers < len(self.copies):
            if loop.time() >= send_at:
                for copy in self.copies:
                    if not seen.has_answered(copy.number):
                        copy.feed(prompts.line(copy.number, bounds, called=0))
                send_at = loop.time() + bounds.deadline + _SLOW_START
            await self._check_alive("before the storm began")
            if loop.time() > end:
                asked = f"{len(seen.calls)} of {len(self.copies)} copies sent a request for their first call"
                raise self._failed(f"{asked}, and {seen.answers} got its answer, in {PATIENCE:g} s")
            await asyncio.sleep(_LOOK)

    async def _feed(self, calls: Traffic, prompts: Prompts, bounds: Bounds) -> None:
        server, copies = self.server, self.copies
        for number, (at, process, tokens) in enumerate(zip(*calls, strict=True), 1):
            await asyncio.sleep(max(0.0, at - server.now) / server.speed)
            line = prompts.line(number, bounds, called=number, tokens=tokens)
            copies[process % len(copies)].feed(line)
            self.sent = number
            self.latest = max(self.latest, (server.now - at) / server.speed)
        for copy in copies:
            copy.finish()

    async def _watch(self, feeding: asyncio.Task[None] | None = None) -> None:
        """Watch until all calls have ended, or the last deadline has passed."""
        end = self.scenario.duration + self.load.deadline + _AFTERWARDS
        busy = CpuLoad(copy.pid for copy in self.copies)
        while self.server.now < end:
            if feeding is None or feeding.done():
                if all(copy.code is not None for copy in self.copies):
                    return
            else:
                await self._check_alive(f"after {self.server.now:.1f} s of the storm")
            busy.sample()
            self.busiest = busy.busiest
            self._notify()
            await asyncio.sleep(_LOOK)

    # ------------------------------------------------------------ a program's own traffic

    def observe(self) -> None:
        """Observe every request from now on: a copy may send one while the next copy starts."""
        self.server.play(self.scenario, self.seen)

    async def wait_for(self) -> None:
        """Wait for the program's first request, which begins the storm; then watch."""
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while not self.seen.calls:
            if all(copy.code is not None for copy in self.copies):
                await self._check_alive("without a request")
            if loop.time() > end:
                raise self._failed(f"it sent no request in {PATIENCE:g} s")
            await asyncio.sleep(_LOOK)
        await self._watch()

    # ------------------------------------------------------------ result

    def played(self, program: str, seed: int, calls: Traffic) -> Played:
        scenario, load, seen = self.scenario, self.load, self.seen
        records = (
            seen.for_sent_calls(calls.times, load.deadline)
            if calls.times
            else seen.for_unknown_calls(scenario.duration, load.deadline)
        )
        if not any(record.attempts for record in records):
            raise self._failed("it sent no request for any of its calls")
        ideal = ideal_throughput(scenario, [record.arrived for record in records])
        last = 1 + int(max(record.ended for record in records))
        attempts = seen.attempts[:last]
        work = self.server.stats()["clients"]
        wasted = work["wasted_seconds"] / work["work_seconds"] if work["work_seconds"] else 0.0
        observed = Observed(attempts, wasted, openings=0)
        measures = measure(records, ideal, load, observed, duration=scenario.duration)
        middle, most = waits(records, load.trigger_at or 0.0)
        return Played(
            result=Result(
                scenario=scenario.name,
                policy=program,
                seed=seed,
                measures=replace(measures, added_wait_p50=middle, added_wait_p99=most),
                series=series(records, ideal, attempts),
            ),
            unmatched_requests=seen.unmatched_requests,
            exits=tuple(copy.code for copy in self.copies),
            latest=self.latest,
            busiest=self.busiest,
        )

    # ------------------------------------------------------------ checks

    def _notify(self) -> None:
        if self.progress is not None:
            seen, until = self.seen, self.scenario.duration
            calls = self.sent or len(seen.calls)
            moment = Moment(self.server.now, until, calls, sum(seen.attempts), seen.answers)
            self.progress(moment)

    async def _check_alive(self, when: str) -> None:
        for copy in self.copies:
            if copy.code is not None:
                count = len(self.copies)
                which = f"copy {copy.number} of {count} " if count > 1 else ""
                code = f"exit code {copy.code}" if copy.code >= 0 else f"signal {-copy.code}"
                stderr = await copy.stderr_tail()
                raise self._failed(f"{which}ended {when}, with {code}", stderr=stderr)

    def _failed(self, what: str, *, stderr: str = "") -> ProgramError:
        statuses = self.server.stats()["answers"]
        refused = ", ".join(sorted(status for status in statuses if status in {"400", "401"}))
        if refused and not self.seen.calls:
            what += f" (its requests were answered with {refused})"
        return ProgramError(f"{self.name}: {what}", stderr=stderr)
