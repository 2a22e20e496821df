"""A call whose caller makes the attempts: a driver's `run`, inverted.

The driver waits until an attempt may leave; the caller makes the attempt and reports its
outcome. Reporting never waits, so it works at the end of a `with` block. A dropped call is
closed by the garbage collector, on any thread.
"""

from stormbreak.core.flow import Command, Flow
from stormbreak.drivers.flow_stepper import Stepper
from stormbreak.types import Call, CallResult, Outcome


class CallerDriven:
    """An active call: `command` is its next command, or its `CallResult` at the end."""

    __slots__ = ("_stepper", "command", "flow")

    def __init__(self, stepper: Stepper, call: Call) -> None:
        self.flow: Flow | None = None
        self._stepper = stepper
        flow, self.command = stepper.start(call)
        if not isinstance(self.command, CallResult):
            self.flow = flow

    def answer(self, outcome: Outcome | None) -> Command | CallResult:
        """Report the outcome of the command, and get the next. Does nothing once the call is closed."""
        if self.flow is not None:
            self.command = self._stepper.step(self.flow, outcome)
            if isinstance(self.command, CallResult):
                self.flow = None
        return self.command

    def forget(self) -> None:
        """Drop the result: an exception whose traceback leads here would keep itself alive."""
        if isinstance(self.command, CallResult):
            outcome = self.command.outcome._replace(value=None, error=None)
            self.command = self.command._replace(outcome=outcome)

    def close(self) -> None:
        """Close the call: its permits are freed, and count neither as success nor as failure."""
        flow, self.flow = self.flow, None
        if flow is not None:
            self._stepper.close(flow)

    def __del__(self) -> None:
        flow, self.flow = self.flow, None
        if flow is not None:
            self._stepper.drop(flow)
