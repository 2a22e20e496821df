"""A call to a user's function: its attempts as context managers, one after another, and their history.

`for attempt in ...` and `async for attempt in ...` iterate over the attempts of one call, which begins with the first.
Between attempts the engine decides whether another one follows.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

from stormbreak.core.engine import Engine
from stormbreak.core.explain import add_attempt_notes, notes_of
from stormbreak.core.flow import Command, DeliverStream, Send
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.delivery import CallerDriven
from stormbreak.drivers.explain import KEPT_AS, AttemptHistory, results_of
from stormbreak.drivers.judge import OK
from stormbreak.drivers.thread_driver import ThreadDriver
from stormbreak.drivers.timeouts import Timeout, Timeouts
from stormbreak.errors import error_for
from stormbreak.functions.outcome_rules import Rules
from stormbreak.types import VERDICT_OK, CallResult, Outcome, Target, Verdict

# ---------------------------------------------------------------- nesting
# A call from within an attempt to the same target of the same engine is part of that attempt: as a separate call it
# would wait for a slot that its own caller holds. If an inner call gave up, the outer call does not retry: three times
# three attempts make a storm. The running attempt is in a context variable: tasks and `to_thread` inherit it, a bare
# thread pool does not.

_FINAL_GATES = frozenset(("verdict", "forbidden", "committed"))
"""Gates that stop retries at their own level only; an outer call may retry."""

_MAX_DEPTH = 16


@dataclass(slots=True, eq=False)
class RunningAttempt:
    """An attempt in progress, and the error on which an inner call gave up meanwhile."""

    engine: Engine
    target: Target
    outer: "RunningAttempt | None"
    live: bool = True
    given_up: BaseException | None = None


CURRENT: ContextVar[RunningAttempt | None] = ContextVar("stormbreak_attempt", default=None)


def innermost() -> RunningAttempt | None:
    """Return the innermost attempt around this call. A task may outlive the attempt in which it was started."""
    attempt = CURRENT.get()
    while attempt is not None and not attempt.live:
        attempt = attempt.outer
    return attempt


def is_nested(engine: Engine, target: Target) -> bool:
    """Whether a call to `target` from here is part of an attempt to it."""
    attempt = CURRENT.get()
    while attempt is not None:
        if attempt.live and attempt.engine is engine and attempt.target == target:
            return True
        attempt = attempt.outer
    return False


def gave_up(ended: CallResult) -> bool:
    """Whether a call ended with a retryable failure, because a gate refused the retry."""
    return ended.stopped is not None and ended.stopped not in _FINAL_GATES


def was_given_up(error: BaseException, attempt: RunningAttempt) -> bool:
    """Whether a guarded call or a client call within `attempt` gave up on `error` or its cause.

    Guarded calls record it in the `attempt`: the same exception object may be raised many times.
    """
    link: BaseException | None = error
    for _ in range(_MAX_DEPTH):
        if link is None:
            break
        if link is attempt.given_up or any(
            map(gave_up, results_of(link, getattr(link, "response", None)))
        ):
            return True
        link = link.__cause__
    return False


# ---------------------------------------------------------------- attempt history

_MAX_NOTES = 64  # on one exception: some raise the same object again and again


class FunctionHistory(AttemptHistory):
    """The history of a call to a function."""


def _add_history(error: BaseException, target: Target, ended: CallResult) -> None:
    """Add the attempts to the `error` of a call, if a retry was made or a gate refused one."""
    refused = [f"no further retry: {ended.stopped}"] if gave_up(ended) else []
    if ended.attempts == 1 and not refused:
        return
    # An exception that accepts no attributes, such as a frozen dataclass, is raised without the history.
    with suppress(Exception):
        if len(getattr(error, "__notes__", ())) < _MAX_NOTES:
            for line in (*notes_of(ended), *refused):
                error.add_note(line)
    # Without the outcome: an exception that refers to itself is freed late.
    bare = ended._replace(outcome=ended.outcome._replace(error=None, value=None))
    with suppress(Exception):
        setattr(error, KEPT_AS, FunctionHistory(target, bare))


# ---------------------------------------------------------------- attempt

_COMMITTED = Outcome(Verdict.OK, committed=True)
_TIMEOUTS = Timeouts()


@dataclass(slots=True, eq=False)
class FunctionCall:
    """The state that all attempts of one call share."""

    engine: Engine
    target: Target
    call: CallerDriven
    rules: Rules
    number: int
    retry_exhausted: bool
    timed_out: TimeoutError | None = None  # the error of the last attempt, if we cut it off
    _error: Exception | None = None  # of the last attempt
    _gave_up_within: bool = False  # an inner call gave up on this error

    def answer(self, outcome: Outcome, error: Exception | None = None) -> Command | CallResult:
        """Report the outcome of an attempt, and return the next command.

        The engine does not get the `error`: its traceback refers to this call, and would keep it alive without an
        owner.
        """
        self._error = error
        if outcome.error is not None:
            outcome = outcome._replace(error=None)
        return self.call.answer(outcome)

    def close(self) -> None:
        self._error = None
        self.call.close()

    def outcome_of(self, error: Exception, attempt: RunningAttempt) -> Outcome:
        """Judge the error of an attempt. Our own timeout is retried if the rules retry a TimeoutError."""
        outcome = self.rules.of_error(error)
        if error is self.timed_out:
            treatment = self.engine.target_state(self.target).treatments[outcome.verdict]
            forbidden = outcome.forbidden or not treatment.retry
            return Outcome(Verdict.TIMEOUT, error=error, maybe_processed=True, forbidden=forbidden)
        self._gave_up_within = not self.retry_exhausted and was_given_up(error, attempt)
        return outcome._replace(forbidden=True) if self._gave_up_within else outcome

    def end(self, already: Exception | None = None) -> None:
        """Raise the exception of the ended call, if any, unless it is `already` being raised."""
        final = self._final()
        self._error = None  # its traceback refers to this call: avoid a cycle
        self.call.forget()
        try:
            if final is not None and final is not already:
                raise final
        finally:  # its traceback holds this frame
            del final

    def _final(self) -> BaseException | None:
        """Return the final exception of the call, the user's or ours; None if it returned a result."""
        ended = self.call.command
        assert isinstance(ended, CallResult), "it has ended"
        outcome = ended.outcome
        if outcome.verdict is Verdict.OK:
            return None
        error = self._error
        if error is not None and error is not self.timed_out:
            _add_history(error, self.target, ended)
            if self._gave_up_within or gave_up(ended):
                outer = innermost()
                if outer is not None:
                    outer.given_up = error
            return error
        if error is None and outcome.rejection is None:
            return None
        ended = ended._replace(outcome=outcome._replace(error=error))
        final = add_attempt_notes(error_for(self.target, ended))
        final.__cause__ = error
        return final


class Attempt:
    """One attempt, as a context manager. An exception that the rules name is a failure, and a retry may follow.

    `judge` checks a result. A cancel or an interrupt ends the call, and counts neither as success nor as failure.
    """

    __slots__ = (
        "_before", "_cancellable", "_committed", "_companion", "_function_call", "_outcome", "_running", "_seconds",
        "_send", "_timer", "_until", "over",
    )  # fmt: skip

    def __init__(self, function_call: FunctionCall, send: Send, *, cancellable: bool) -> None:
        self._function_call = function_call
        self._send = send
        self._cancellable = cancellable  # it runs in a task
        self._timer: Timeout | None = None
        self._companion: AbstractContextManager[object] | None = None
        self._before: RunningAttempt | None = None
        self._running: RunningAttempt | None = None
        self._committed = False
        self._outcome = OK
        self._until: float | None = None
        self.over = False

    def __del__(self) -> None:
        """Stop being the running attempt: an interrupt may have come before the context was left."""
        running = getattr(self, "_running", None)
        if running is not None:
            running.live = False

    @property
    def number(self) -> int:
        """The number of the attempt, from 1."""
        return self._send.attempt

    def judge(self, result: Any) -> bool:
        """Judge a result; return whether it is a success. A later exception overrides it.

        An exception of the user's `failed_result` ends the call without a retry: it is not evidence about the target.
        """
        try:
            self._outcome = self._function_call.rules.of_result(result)
        except BaseException as error:
            error.add_note("raised by failed_result after the attempt had returned")
            self.cancel()
            raise
        return self._outcome.verdict is VERDICT_OK

    def commit(self) -> None:
        """Record that the caller has seen output: from now on there is no retry and no attempt timeout."""
        if not self._committed:
            self._committed = True
            self.disarm()
            command = self._function_call.call.answer(_COMMITTED)
            if isinstance(command, DeliverStream):
                self._until = command.until

    def cancel(self) -> None:
        """End the call without a retry; it counts neither as success nor as failure."""
        self._function_call.close()

    def __enter__(self) -> Self:
        if self._running is not None:
            message = "an attempt can be entered only once: continue the loop for the next"
            raise RuntimeError(message)
        call = self._function_call
        try:
            self._running = RunningAttempt(call.engine, call.target, innermost())
            self.step_in()
            if self._cancellable and self._send.timeout is not None:
                self._arm(self._send.timeout)
        except BaseException:  # as in `Attempts`
            self.cancel()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> bool:
        self.over = True
        call, running = self._function_call, self._running
        assert running is not None
        running.live = False  # `innermost` skips it where a context still has it
        try:
            if kind is not GeneratorExit:  # perhaps from the garbage collector: see `iterators`
                self.step_out()
            if self._timer is not None:
                error = self.disarm(kind, error)
            if call.call.flow is None:  # cancelled
                return False
            if error is None:
                call.answer(self._outcome)
                return False
            if not isinstance(error, Exception):
                call.close()
                return False
            command = call.answer(call.outcome_of(error, running), error)
        except BaseException:  # from a rule or a listener
            call.close()
            raise
        finally:
            running.given_up = None
        if isinstance(command, CallResult):
            call.end(already=error)
            return False
        return True

    def step_in(self) -> None:
        """Make this the running attempt of the present context."""
        self._before = CURRENT.get()
        CURRENT.set(self._running)
        context_listener = self._function_call.engine.context_listener
        if context_listener is not None:
            self._companion = context_listener.around(self._function_call.number, self._send)
            self._companion.__enter__()

    def step_out(self) -> None:
        """Restore the previous attempt: the consumer runs now, and its calls are separate."""
        context_listener, self._companion = self._companion, None
        if context_listener is not None:
            context_listener.__exit__(None, None, None)
        CURRENT.set(self._before)

    def expect_next(self, now: float, stall: float | None) -> None:
        """Wait for the next item, for `stall` seconds at most, but raise TimeoutError at the deadline of the call."""
        seconds = stall
        if self._until is not None:
            left = self._until - now
            if left <= 0:
                raise self._time_out("no end before the deadline")
            seconds = left if stall is None else min(stall, left)
        if self._cancellable and seconds is not None:
            self._arm(seconds)

    def disarm(
        self, kind: type[BaseException] | None = None, error: BaseException | None = None
    ) -> BaseException | None:
        """Stop the timer. Return the error of the attempt, as a TimeoutError if the timer caused it."""
        timer, self._timer = self._timer, None
        if timer is None:
            return error
        try:
            timer.__exit__(kind)
        except TimeoutError:
            return self._time_out(f"no answer in {self._seconds:g} s")
        return error

    def _arm(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer = Timeout(seconds, _TIMEOUTS)
        self._timer.__enter__()

    def _time_out(self, text: str) -> TimeoutError:
        self._function_call.timed_out = error = TimeoutError(text)
        return error


class NestedAttempt:
    """Replaces the attempt of a call that is part of an outer attempt; only the outer attempt counts."""

    __slots__ = ("over",)
    number = 1

    def __init__(self) -> None:
        self.over = False

    def judge(self, result: Any) -> bool:  # noqa: ARG002
        """Accept every result: only the outer attempt is judged."""
        return True

    def _do_nothing(self, *_: object) -> None:
        """Do nothing: the outer attempt counts."""

    commit = cancel = step_in = step_out = expect_next = disarm = _do_nothing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.over = True


# ---------------------------------------------------------------- loop of attempts

StartCall: TypeAlias = Callable[[], FunctionCall | None]
"""Begins a call; returns None if it is nested."""


class _Loop:
    """The common part of blocking and asynchronous loops."""

    __slots__ = ("_attempt", "_begin", "_function_call")

    def __init__(self, begin: StartCall) -> None:
        self._begin = begin
        self._function_call: FunctionCall | None = None
        self._attempt: Attempt | NestedAttempt | None = None

    def close(self) -> None:
        if self._function_call is not None:
            self._function_call.close()

    def _next(self) -> FunctionCall | None:
        """Return the call if another attempt may follow; begin it if necessary."""
        if self._attempt is None:
            self._function_call = self._begin()
            if self._function_call is None:
                self._attempt = NestedAttempt()
            return self._function_call
        if not self._attempt.over:
            self.close()
            raise RuntimeError("the attempt was not entered: write `with attempt:` in the loop")
        function_call = self._function_call
        return None if function_call is None or function_call.call.flow is None else function_call

    def _nested_attempt(self) -> NestedAttempt | None:
        """Return the only attempt of a nested call; None once it was made."""
        attempt = self._attempt
        return attempt if isinstance(attempt, NestedAttempt) and not attempt.over else None


class Attempts(_Loop):
    """The attempts of blocking code."""

    __slots__ = ("_driver",)

    def __init__(self, driver: ThreadDriver, begin: StartCall) -> None:
        super().__init__(begin)
        self._driver = driver

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Attempt | NestedAttempt:
        try:
            function_call = self._next()
            if function_call is None:
                nested = self._nested_attempt()
                if nested is None:
                    raise StopIteration  # noqa: TRY301 - it closes nothing
                return nested
            send = self._driver.wait_to_send(function_call.call)
            if send is None:
                function_call.end()
                raise StopIteration  # noqa: TRY301
            self._attempt = attempt = Attempt(function_call, send, cancellable=False)
        except BaseException:  # perhaps an interrupt: nothing else would close the call soon
            self.close()
            raise
        return attempt


class AsyncAttempts(_Loop):
    """The attempts of asynchronous code: a timeout can cancel each of them."""

    __slots__ = ("_driver",)

    def __init__(self, driver: AsyncioDriver, begin: StartCall) -> None:
        super().__init__(begin)
        self._driver = driver

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Attempt | NestedAttempt:
        function_call = self._next()
        if function_call is None:
            nested = self._nested_attempt()
            if nested is None:
                raise StopAsyncIteration
            return nested
        command = function_call.call.command
        if isinstance(command, Send):  # usually the attempt may start at once
            send: Send | None = command
        else:
            send = await self._driver.wait_to_send(function_call.call)
        if send is None:
            function_call.end()
            raise StopAsyncIteration
        self._attempt = attempt = Attempt(function_call, send, cancellable=True)
        return attempt
