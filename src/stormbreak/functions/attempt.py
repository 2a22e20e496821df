"""One attempt at a user's function, as a context that classifies its end; and the attempt history of a call."""

from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any, Self

from stormbreak.core.engine import Engine
from stormbreak.core.explain import add_attempt_notes, notes_of
from stormbreak.core.flow import DeliverStream, Send
from stormbreak.drivers.caller_driven import CallerDriven
from stormbreak.drivers.explain import KEPT_AS, AttemptHistory
from stormbreak.drivers.judge import OK
from stormbreak.drivers.timeouts import Timeout, Timeouts
from stormbreak.errors import error_for
from stormbreak.functions.nesting import HELD, Held, innermost, record_given_up, was_given_up
from stormbreak.functions.outcome_rules import Rules
from stormbreak.types import CallResult, Outcome, Target, Verdict

# ---------------------------------------------------------------- attempt history

_MAX_NOTES = 64  # on one exception: some raise the same object again and again


class FunctionHistory(AttemptHistory):
    """That of a call around a function."""


def tell(error: BaseException, target: Target, ended: CallResult) -> None:
    """Have `error`, with which a call ends, tell what was tried, if a retry was made or refused by a gate."""
    refused = record_given_up(ended)
    if ended.attempts == 1 and not refused:
        return
    with suppress(
        Exception
    ):  # one that takes no attributes, such as a frozen dataclass: it is to be raised, not ours
        _note(error, ended, refused=refused)
    # Without what came of it: an exception that holds itself is freed late.
    bare = ended._replace(outcome=ended.outcome._replace(error=None, value=None))
    with suppress(Exception):
        setattr(error, KEPT_AS, FunctionHistory(target, bare))


def _note(error: BaseException, ended: CallResult, *, refused: bool) -> None:
    if len(getattr(error, "__notes__", ())) >= _MAX_NOTES:
        return
    for line in notes_of(ended):
        error.add_note(line)
    if refused:
        error.add_note(f"no further retry: {ended.stopped}")


def give_up(error: BaseException) -> None:
    """Tell the attempt that is under way around this call that `error` was retried for as long as it could be."""
    outer = innermost()
    if outer is not None:
        outer.given_up = error


# ---------------------------------------------------------------- attempt

_COMMITTED = Outcome(Verdict.OK, committed=True)


_TIMEOUTS = Timeouts()


class Course:
    """What all attempts of one call share. `cut` is what the last one ended with, if we cut it."""

    __slots__ = (
        "_given_up_within", "cut", "engine", "handed", "number", "retries_given_up", "rules", "target",
    )  # fmt: skip

    def __init__(
        self,
        engine: Engine,
        target: Target,
        handed: CallerDriven,
        rules: Rules,
        *,
        number: int,
        retries_given_up: bool,
    ) -> None:
        self.number = number  # of the call
        self.engine = engine
        self.target = target
        self.handed = handed
        self.rules = rules
        self.retries_given_up = retries_given_up
        self.cut: TimeoutError | None = None
        self._given_up_within = False  # what the last attempt raised

    def outcome_of(self, error: Exception, held: Held) -> Outcome:
        """Judge what an attempt raised. One that we cut is retried where the rules retry a TimeoutError."""
        outcome = self.rules.of_error(error)
        if error is self.cut:
            forbidden = (
                outcome.forbidden
                or not self.engine.target_state(self.target).treatments[outcome.verdict].retry
            )
            return Outcome(Verdict.TIMEOUT, error=error, maybe_processed=True, forbidden=forbidden)
        self._given_up_within = not self.retries_given_up and was_given_up(error, held)
        return outcome._replace(forbidden=True) if self._given_up_within else outcome

    def final(self) -> BaseException | None:
        """What the call ends with: the user's own exception, or one of ours; None where it was a result."""
        ended = self.handed.command
        assert isinstance(ended, CallResult), "it has ended"
        outcome = ended.outcome
        if outcome.verdict is Verdict.OK:
            return None
        error = outcome.error
        if error is not None and error is not self.cut:
            tell(error, self.target, ended)
            if self._given_up_within or record_given_up(ended):
                give_up(error)
            return error
        if error is None and outcome.rejection is None:
            return None
        final = add_attempt_notes(error_for(self.target, ended))
        final.__cause__ = error
        return final


class Attempt:
    """One attempt. Left by an exception it failed, if the rules say so, and the next may follow; else it succeeded.

    A result that is to be judged is handed to `judge`. A cancel or an interrupt ends the call, and counts neither as
    success nor as failure.
    """

    __slots__ = (
        "_armed",
        "_around",
        "_before",
        "_committed",
        "_cuts",
        "_function_call",
        "_held",
        "_outcome",
        "_seconds",
        "_send",
        "_until",
        "over",
    )  # fmt: skip

    def __init__(self, course: Course, send: Send, *, cuts: bool) -> None:
        self._function_call = course
        self._send = send
        self._cuts = cuts  # it runs in a task, which can be stopped in the middle
        self._armed: Timeout | None = None
        self._around: AbstractContextManager[object] | None = None
        self._before: Held | None = None
        self._held: Held | None = None
        self._committed = False
        self._outcome = OK
        self._until: float | None = None
        self.over = False

    @property
    def number(self) -> int:
        """Which attempt of its call it is, from 1."""
        return self._send.attempt

    def judge(self, result: Any) -> bool:
        """Say what was returned, and learn whether it is a success. An exception that is raised later goes before.

        An exception of the user's own `failed_result` ends the call: it says nothing of the target, and what was
        returned is not asked for again.
        """
        try:
            self._outcome = self._function_call.rules.of_result(result)
        except BaseException as error:
            error.add_note("raised by failed_result, of an attempt that had returned")
            self.cancel()
            raise
        return self._outcome.verdict is Verdict.OK

    def commit(self) -> None:
        """Say that somebody has seen a part of what comes: from here on nothing is retried, nor cut by the timeout."""
        if not self._committed:
            self._committed = True
            self.disarm()
            command = self._function_call.handed.answer(_COMMITTED)
            if isinstance(command, DeliverStream):
                self._until = command.until

    def cancel(self) -> None:
        """End the call: it counts neither as success nor as failure, and nothing is retried."""
        self._function_call.handed.close()

    def __enter__(self) -> Self:
        if self._held is not None:
            raise RuntimeError("an attempt is entered once; the loop has the next")
        self._held = Held(self._function_call.engine, self._function_call.target, innermost())
        self.step_in()
        if self._cuts and self._send.timeout is not None:
            self._arm(self._send.timeout)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> bool:
        self.over = True
        handed, held = self._function_call.handed, self._held
        assert held is not None
        held.live = False
        self.step_out()
        try:
            error = self.disarm(kind, error)
            if handed.flow is None:  # cancelled
                return False
            if error is None:
                handed.answer(self._outcome)
                return False
            if not isinstance(error, Exception):
                handed.close()
                return False
            command = handed.answer(self._function_call.outcome_of(error, held))
        except BaseException:  # of a rule, or a listener
            handed.close()
            raise
        finally:
            held.given_up = None
        return not isinstance(command, CallResult) or self._end(error)

    def _end(self, error: Exception) -> bool:
        """End the call, with the exception that is under way unless we cut it."""
        final = self._function_call.final()
        self._function_call.handed.forget()
        try:
            if final is None or final is error:
                return False
            raise final
        finally:  # its traceback holds this frame
            del final

    def step_in(self) -> None:
        """From here on it is this attempt that runs, in the present context."""
        self._before = HELD.get()
        HELD.set(self._held)
        context_listener = self._function_call.engine.context_listener
        if context_listener is not None:
            self._around = context_listener.around(self._function_call.number, self._send)
            self._around.__enter__()

    def step_out(self) -> None:
        """Somebody else runs, who may have calls of his own."""
        around, self._around = self._around, None
        if around is not None:
            around.__exit__(None, None, None)
        HELD.set(self._before)

    def has_next(self, now: float, stall: float | None) -> None:
        """Let a committed attempt run on, for `stall` seconds at the most, and not beyond the deadline of its call.

        Raises:
            TimeoutError: that has passed.
        """
        seconds = stall
        if self._until is not None:
            left = self._until - now
            if left <= 0:
                raise self._cut("no end before the deadline")
            seconds = left if stall is None else min(stall, left)
        if self._cuts and seconds is not None:
            self._arm(seconds)

    def disarm(
        self, kind: type[BaseException] | None = None, error: BaseException | None = None
    ) -> BaseException | None:
        """Stop the timer; with what it was left, a TimeoutError if that was our doing."""
        armed, self._armed = self._armed, None
        if armed is None:
            return error
        try:
            armed.__exit__(kind)
        except TimeoutError:
            return self._cut(f"no answer in {self._seconds:g} s")
        return error

    def _arm(self, seconds: float) -> None:
        self._seconds = seconds
        self._armed = Timeout(seconds, _TIMEOUTS)
        self._armed.__enter__()

    def _cut(self, said: str) -> TimeoutError:
        self._function_call.cut = cut = TimeoutError(said)
        return cut


class NestedAttempt:
    """What looks like an attempt to a block that runs as a part of another one's attempt."""

    __slots__ = ("over",)
    number = 1

    def __init__(self) -> None:
        self.over = False

    def judge(self, result: Any) -> bool:  # noqa: ARG002
        """The attempt around it is judged."""
        return True

    def commit(self) -> None:
        """The attempt around it is committed, or not."""

    def cancel(self) -> None:
        """The attempt around it is judged by what it does."""

    def step_in(self) -> None:
        """It is the attempt around it that runs."""

    def step_out(self) -> None:
        """As that."""

    def has_next(self, now: float, stall: float | None) -> None:
        """The attempt around it has a time."""

    def disarm(self) -> None:
        """There is no timer."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.over = True
