"""A circuit breaker on its own, around any function: the machine of `core.breaker` with a lock and a clock.

It never waits: a call that may not pass fails at once with the time to come back. One object may serve many
threads and event loops; in a forked child it begins anew, as what is under way in the parent will never end there.
"""

import inspect
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from math import inf
from typing import Any, ParamSpec, Self, TypeAlias, TypeVar, cast

from stormbreak.core.breaker import Breaker, BreakerToken
from stormbreak.core.checks import require_type
from stormbreak.core.circuit import BreakerPolicy, State
from stormbreak.core.circuit_snapshot import parse_snapshot, span_in
from stormbreak.core.policy import check_magnitudes
from stormbreak.drivers.judge import OK, Judge, check_function
from stormbreak.drivers.turn_lock import TurnLock
from stormbreak.errors import CircuitOpenError
from stormbreak.types import CANCELLED, TREATMENTS, CallResult, Outcome, Rejection, Target, Verdict

P = ParamSpec("P")
R = TypeVar("R")

_Changes: TypeAlias = deque[tuple[State, State]]
_Pass: TypeAlias = tuple[Breaker, BreakerToken]  # and the machine that gave it

_log = logging.getLogger("stormbreak")


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerMetrics:
    """What a circuit breaker has counted.

    `calls`, `failures` and `slow_calls` are those that its trip rule has in its window now; under `consecutive`, the
    failures in a row. A rate is a share from 0 to 1, and None where there is none: before the first call, or where no
    rule counts that. `rejected` are calls that did not pass, `trips` how often the rule said to open, both since the
    breaker was made.
    """

    state: State
    calls: int
    failures: int
    slow_calls: int
    failure_rate: float | None
    slow_call_rate: float | None
    rejected: int
    trips: int


class CircuitBreaker(TurnLock[tuple[_Pass, Outcome], _Changes]):
    """Stops calling what is ill, and finds out when it is well again.

    `call`, `async_call`, `with breaker.attempt()` and the object as a decorator all do the same; whatever may not
    pass raises CircuitOpenError, whose `retry_at` is on `clock`. `judge` says what is a failure. `on_change` is
    called with the state before and after each change, in the order of the changes and once at a time, perhaps on the
    thread of another call; an exception in it is logged and fails no call.
    """

    def __init__(
        self,
        policy: BreakerPolicy | None = None,
        *,
        name: str = "circuit",
        judge: Judge | None = None,
        on_change: Callable[[State, State], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        require_type(isinstance(name, str), "name must be a text", name)
        known = policy is None or isinstance(policy, BreakerPolicy)
        require_type(known, "policy must be a BreakerPolicy", policy)
        require_type(judge is None or isinstance(judge, Judge), "judge must be a Judge", judge)
        check_function("on_change", on_change)
        self.name = name
        self.judge = judge or Judge()
        self._on_change = on_change
        self._clock = clock
        self._wall_clock = wall_clock
        self._chance = chance
        self._policy = policy or BreakerPolicy()
        check_magnitudes(self._policy)
        super().__init__()

    def _begin(self) -> None:
        super()._begin()
        self._changes: _Changes = deque()
        self._delivering = threading.Lock()
        self._rejected = 0
        self._breaker = Breaker(self._policy, TREATMENTS, self._note, alone=True)

    @property
    def state(self) -> State:
        """Where the circuit stands. An open one whose time is over stays open until the next call."""
        return self._turn(lambda: self._breaker.state_at(self._clock()))

    @property
    def trips(self) -> int:
        """How often the rule said to open; in metrics-only mode, how often it would have."""
        return self._breaker.trips

    @property
    def metrics(self) -> BreakerMetrics:
        """What is counted now."""
        return self._turn(self._measure)

    def _measure(self) -> BreakerMetrics:
        now, breaker = self._clock(), self._breaker
        return BreakerMetrics(
            state=breaker.state_at(now),
            rejected=self._rejected,
            trips=breaker.trips,
            **breaker.counts(now)._asdict(),
        )

    @property
    def retry_in(self) -> float | None:
        """Seconds until a call may pass, 0.0 if one may now; None while nobody knows."""
        now, ready_at = self._turn(self._look)
        return None if ready_at == inf else max(0.0, ready_at - now)

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function`, if the circuit lets it pass, and count what comes of it.

        Raises:
            CircuitOpenError: it does not; nothing was called.
            TypeError: `function` is asynchronous.
        """
        with self.attempt() as attempt:
            result = function(*args, **kwargs)
            if inspect.iscoroutine(result):
                result.close()
                attempt.cancel()
                raise TypeError("function is asynchronous: use async_call")
            attempt.judge(result)
            return result

    async def async_call(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Await `function`, if the circuit lets it pass, and count what comes of it; a cancel frees its place.

        Raises:
            CircuitOpenError: it does not; nothing was called.
        """
        with self.attempt() as attempt:
            result = await function(*args, **kwargs)
            attempt.judge(result)
            return result

    def attempt(self) -> "Attempt":
        """One attempt as a context, in asynchronous functions too: `with breaker.attempt(): ...`."""
        return Attempt(self)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function, or an asynchronous one.

        Raises:
            TypeError: it is a generator: what it does happens after it has returned.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError("a generator has done nothing yet when it returns; use attempt() in it")
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def guarded_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                return await self.async_call(function, *args, **kwargs)

            return cast("Callable[P, R]", guarded_async)

        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            return self.call(function, *args, **kwargs)

        return guarded

    def isolate(self, *, duration: float | None = None) -> None:
        """Open by hand: until `reset`, or for `duration` seconds, after which probes decide.

        Raises:
            ConfigurationError: `duration` is no span of time.
        """
        self._turn(lambda: self._breaker.isolate(self._clock(), duration=duration))

    def reset(self) -> None:
        """Close by hand, and forget what was counted; a breaker that is forced open stays isolated."""
        self._turn(lambda: self._breaker.reset(self._clock()))

    def save(self) -> dict[str, Any]:
        """The state in plain values, for `restore` in another process. Half-open is saved as open."""
        saved = self._turn(lambda: self._breaker.save(self._clock()))
        return {**saved.as_dict(), "saved_at": self._wall_clock()}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Take up what `save` gave; the time since then counts, by the wall clock.

        Raises:
            ConfigurationError: names the key and the value that cannot be right; nothing has changed.
        """
        saved = parse_snapshot(values)
        elapsed = max(0.0, self._wall_clock() - span_in(values, "saved_at"))
        self._turn(lambda: self._breaker.restore(saved, self._clock(), elapsed=elapsed))

    def _look(self) -> tuple[float, float]:
        now = self._clock()
        return now, self._breaker.ready_at(None, now)

    def _enter(self) -> _Pass:
        return self._turn(self._take)

    def _take(self) -> _Pass:
        now, ready_at = self._look()
        if ready_at > now:
            self._rejected += 1
            raise self._refusal(ready_at, now)
        return self._breaker, self._breaker.take(None, now)

    def _leave(self, passed: _Pass, outcome: Outcome) -> None:
        self._postpone((passed, outcome))
        self._catch_up()

    def _settle(self, held: tuple[_Pass, Outcome]) -> None:
        (breaker, token), outcome = held
        if breaker is self._breaker:  # else it left in the parent of this process
            breaker.settle(token, outcome, self._clock(), self._chance())

    def _refusal(self, ready_at: float, now: float) -> CircuitOpenError:
        retry_at = None if ready_at == inf else ready_at
        reason = f"the circuit is {self._breaker.state_text(now)}"
        rejection = Rejection("breaker", reason, retry_at)
        outcome = Outcome(Verdict.REJECTED, rejection=rejection)
        ended = CallResult(outcome, stopped="breaker", retry_at=retry_at)
        back = "" if retry_at is None else f"; come back in {ready_at - now:.1f} s"
        target = Target(self.name, "")
        return CircuitOpenError(f"{self.name}: {reason}{back}", target=target, ended=ended)

    def _note(self, before: State, after: State, *, now: float, until: float | None) -> None:  # noqa: ARG002
        if self._on_change is not None:
            self._changes.append((before, after))

    def _collect(self) -> _Changes | None:
        return self._changes or None

    def _deliver_later(self, left: _Changes) -> None:
        """Deliver what is queued, unless that is under way: on another thread, or below a listener on this one."""
        while left and self._delivering.acquire(blocking=False):
            try:
                self._deliver(left)
            finally:
                self._delivering.release()

    def _deliver(self, changes: _Changes) -> None:
        assert self._on_change is not None
        while changes:
            before, after = changes.popleft()
            try:
                self._on_change(before, after)
            except Exception:  # noqa: BLE001 - a listener's trouble must never fail a call
                _log.exception("a listener of circuit breaker %s failed", self.name)


class Attempt:
    """One attempt that a circuit let pass: counted once, when its context is left.

    What the context raises is judged; else it succeeded, unless `judge` was given a result that says otherwise.
    """

    __slots__ = ("_breaker", "_outcome", "_passed")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._passed: _Pass | None = None
        self._outcome: Outcome | None = None

    def __enter__(self) -> Self:
        if self._passed is not None:
            raise RuntimeError("an attempt is entered once; ask the breaker for another")
        self._passed = self._breaker._enter()  # noqa: SLF001 - two halves of one thing
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        assert self._passed is not None
        outcome = CANCELLED
        try:
            if error is not None and self._outcome is not CANCELLED:
                outcome = self._breaker.judge.of_error(error)
            else:
                outcome = self._outcome or OK
        finally:
            self._breaker._leave(self._passed, outcome)  # noqa: SLF001

    def judge(self, result: object) -> None:
        """Say what came of it; an exception that is raised later goes before.

        An exception of the user's own `failed_result` is raised, and the attempt counts as cancelled: it says nothing
        of the target.
        """
        self._outcome = CANCELLED
        self._outcome = self._breaker.judge.of_result(result)

    def cancel(self) -> None:
        """Count it neither as success nor as failure."""
        self._outcome = CANCELLED
