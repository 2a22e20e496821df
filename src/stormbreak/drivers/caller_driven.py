"""A call whose holder makes the attempts: a driver's `run`, turned inside out.

The driver waits until an attempt may leave and hands over; the holder makes the attempt and answers with what came of
it. An answer never waits, so it may be given where nothing can be awaited, as at the end of a `with` block. A call
that is dropped, by the garbage collector and on whatever thread, is closed.
"""

from stormbreak.core.flow import Command, Flow
from stormbreak.drivers.flow_stepper import Stepper
from stormbreak.types import Call, CallResult, Outcome


class CallerDriven:
    """One call under way: its `command` is what is to be done next, `CallResult` in the end."""

    __slots__ = ("_stepper", "command", "flow")

    def __init__(self, stepper: Stepper, call: Call) -> None:
        self.flow: Flow | None = None
        self._stepper = stepper
        flow, self.command = stepper.start(call)
        if not isinstance(self.command, CallResult):
            self.flow = flow

    def answer(self, outcome: Outcome | None) -> Command | CallResult:
        """Say what came of the command, and learn the next. Once the call is closed, nothing changes."""
        if self.flow is not None:
            self.command = self._stepper.step(self.flow, outcome)
            if isinstance(self.command, CallResult):
                self.flow = None
        return self.command

    def forget(self) -> None:
        """Keep no longer what came of it: an exception whose traceback leads here would hold itself."""
        if isinstance(self.command, CallResult):
            outcome = self.command.outcome._replace(value=None, error=None)
            self.command = self.command._replace(outcome=outcome)

    def close(self) -> None:
        """Give it up: what the call held is free, and counts neither as success nor as failure."""
        flow, self.flow = self.flow, None
        if flow is not None:
            self._stepper.close(flow)

    def __del__(self) -> None:
        flow, self.flow = self.flow, None
        if flow is not None:
            self._stepper.drop(flow)
