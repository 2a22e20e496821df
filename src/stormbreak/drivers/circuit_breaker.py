"""A standalone circuit breaker around any function: `core.breaker` with a lock and a clock.

It never waits: a rejected call fails at once with the time to retry. One object may serve many
threads and event loops; in a forked child it is reset, since calls of the parent never end there.
"""

import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from math import inf
from typing import Any, ParamSpec, Self, TypeAlias, TypeVar, cast

from stormbreak.core.breaker import Breaker, BreakerToken
from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.checks import require_type
from stormbreak.core.circuit_snapshot import parse_snapshot, span_in
from stormbreak.core.policy import check_magnitudes
from stormbreak.drivers.chance import draw
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
    """The counts of a circuit breaker.

    `calls`, `failures` and `slow_calls` are the present counts of its trip rule's window; under `consecutive`, the
    failures in a row. A rate is a share from 0 to 1, and None before the first call, or if no rule counts it.
    `rejected` counts rejected calls, `trips` how often the rule opened the circuit, both since the breaker was created.
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
    """Stops calls to a failing target, and probes it for recovery.

    `call`, `async_call`, `with breaker.attempt()` and the object as a decorator all do the same; a rejected call
    raises CircuitOpenError, whose `retry_at` is on `clock`. `judge` defines failures. `on_change` is
    called with the state before and after each change, in order and one at a time, perhaps on the
    thread of another call; its exceptions are logged and fail no call.
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
        chance: Callable[[], float] = draw,
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
        """The state of the circuit. It stays open until the first call after its open time."""
        return self._turn(lambda: self._breaker.state_at(self._clock()))

    @property
    def trips(self) -> int:
        """How often the rule opened the circuit, or in metrics-only mode would have."""
        return self._breaker.trips

    @property
    def metrics(self) -> BreakerMetrics:
        """The counts now."""
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
        """Return the seconds until a call may pass, 0.0 if one may pass now; None if unknown."""
        now, ready_at = self._turn(self._look)
        return None if ready_at == inf else max(0.0, ready_at - now)

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function`, if the circuit lets it pass, and count the outcome.

        Raises:
            CircuitOpenError: the call was rejected.
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
        """Await `function`, if the circuit lets it pass, and count the outcome; a cancel frees its place.

        Raises:
            CircuitOpenError: the call was rejected.
        """
        with self.attempt() as attempt:
            result = await function(*args, **kwargs)
            attempt.judge(result)
            return result

    def attempt(self) -> "Attempt":
        """Return one attempt as a context manager, also for asynchronous functions: `with breaker.attempt(): ...`."""
        return Attempt(self)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function, or an asynchronous one.

        Raises:
            TypeError: it is a generator, whose body runs after it has returned.
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
        """Isolate: until `reset`, or for `duration` seconds, after which probes decide.

        Raises:
            ConfigurationError: `duration` is not a valid duration.
        """
        self._turn(lambda: self._breaker.isolate(self._clock(), duration=duration))

    def reset(self) -> None:
        """Close, and reset the counts; a breaker that is forced open stays isolated."""
        self._turn(lambda: self._breaker.reset(self._clock()))

    def save(self) -> dict[str, Any]:
        """Return the state as plain values, for `restore` in another process. Half-open is saved as open."""
        saved = self._turn(lambda: self._breaker.save(self._clock()))
        return {**saved.as_dict(), "saved_at": self._wall_clock()}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Restore the result of `save`; the time since then counts, by the wall clock.

        Raises:
            ConfigurationError: names the invalid key and value; nothing has changed.
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
        if breaker is self._breaker:  # otherwise the call began in the parent process
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
        """Deliver queued changes, unless another thread, or a listener on this one, is delivering them."""
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
            except Exception:  # noqa: BLE001 - a listener must never fail a call
                _log.exception("a listener of circuit breaker %s failed", self.name)


class Attempt:
    """One attempt through the circuit: counted once, when its context is left.

    An exception in the context is judged. Without one the attempt succeeded, unless `judge` got a failed result.
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
        """Judge a result; a later exception overrides it.

        An exception of the user's `failed_result` is raised, and the attempt counts as cancelled: it says nothing about
        the target.
        """
        self._outcome = CANCELLED
        self._outcome = self._breaker.judge.of_result(result)

    def cancel(self) -> None:
        self._outcome = CANCELLED
