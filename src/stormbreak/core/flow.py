"""The commands of a call, and how drivers resume or close it.

A call is a *flow*: a generator that yields commands and is resumed with their results. A driver executes the commands;
only the driver sleeps, locks, draws random numbers and reads the clock::

    flow yields            driver resumes it
    Wait(until)            at `until`
    WaitFor(ticket, until) when the ticket is woken, at the latest at `until`
    Send(...)              with the outcome of one attempt; TIMEOUT when `timeout` has passed.
                           If the call delivers: at its first output, with an outcome that is `committed`
    Race(...)              with the outcome of the first of several attempts that ends, or at `until`
    Ask(...)               with an answer, or None if there is none
    DeliverStream(...)     once, when the stream that the caller now reads has ended, with the outcome of
                           the whole stream; TIMEOUT at `until`

Every resume carries an outcome (None after a wait), the time `now` and a `uniform` random number in [0, 1).
The flow returns `CallResult`.
"""

from collections.abc import Generator
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec

from stormbreak.core.fallback_policy import Step
from stormbreak.core.gate import Permit
from stormbreak.core.queue_order import Ticket
from stormbreak.types import CallResult, Outcome, Target


class Wait(NamedTuple):
    """Resume me at `until`."""

    until: float


class WaitFor(NamedTuple):
    """Resume me when `ticket` is woken, at the latest at `until`."""

    ticket: Ticket
    until: float


class Send(NamedTuple):
    """Send one attempt to `target`; give up after `timeout` seconds (None: never).

    The sender may report its first output to the `permit`, in a step of the engine.
    """

    target: Target
    attempt: int
    timeout: float | None
    permit: Permit | None = None


class Race(msgspec.Struct, eq=False):
    """Run all of `sends` until the first of them ends, or until `until` (inf: no limit).

    Attempts in flight continue, the others start now. The driver cancels an attempt in flight that the next command
    does not name. When an attempt ends, the driver puts it into `first`, in the order of the ends, and resumes the flow
    with its outcome; at `until` with None. Only for calls whose driver supports races.
    """

    sends: tuple[Send, ...]
    until: float
    first: Send | None = None


class DeliverStream(NamedTuple):
    """Hand the stream of the committed `outcome` to the caller; end it at `until` (None: never)."""

    outcome: Outcome
    until: float | None
    attempts: int
    waited: float
    maybe_processed: int = 0  # attempts before this one
    permit: Permit | None = None


class Ask(NamedTuple):
    """Ask the local source of `step` for an answer after `failure`, until `until` (None: no limit)."""

    step: Step
    failure: Outcome
    until: float | None


Command: TypeAlias = Wait | WaitFor | Send | Race | DeliverStream | Ask
Resume: TypeAlias = tuple[Outcome | None, float, float]
Ends = TypeVar("Ends")
Steps: TypeAlias = Generator[Command, Resume, Ends]
Flow: TypeAlias = Steps[CallResult]


def held(command: Command) -> list[Permit | Ticket]:
    """Return the permits or the ticket that a flow holds while `command` is executed."""
    if isinstance(command, WaitFor):
        return [command.ticket.permit or command.ticket]
    sends = command.sends if isinstance(command, Race) else (command,)
    return [each.permit for each in sends if isinstance(each, Send | DeliverStream) and each.permit]


class FlowClosed(BaseException):
    """Thrown into a flow to close it: like `close()`, but with the time.

    Not a GeneratorExit: frames below a `yield from` would get a plain one, without the time.
    """

    def __init__(self, now: float, uniform: float) -> None:
        super().__init__()
        self.moment = (now, uniform)


def close(flow: Steps[Any], now: float, uniform: float) -> None:
    """Close `flow`, or a part of one: its permits settle as CANCELLED at `now`. Closing an ended flow does nothing."""
    with suppress(FlowClosed):
        flow.throw(FlowClosed(now, uniform))
