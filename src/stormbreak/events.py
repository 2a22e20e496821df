"""What happened, as small immutable values: one stream, many listeners.

Events are built only where somebody listens, or where a call has something to explain. They carry times,
targets, verdicts and reasons; never a key, a prompt or an answer. `call` numbers the calls of one engine.
"""

from decimal import Decimal
from typing import NamedTuple

from stormbreak.types import Labels, Priority, Target, Usage, Verdict


class Labelled(NamedTuple):
    """A call begins that has labels. One that has none begins without an event."""

    at: float
    call: int
    target: Target
    labels: Labels


class Queued(NamedTuple):
    """A call could not leave at once; `held_by` names the gate."""

    at: float
    call: int
    target: Target
    held_by: str


class Sent(NamedTuple):
    """An attempt left. `bound` is the most tokens that it can use, where that can be told."""

    at: float
    call: int
    target: Target
    attempt: int
    priority: Priority = Priority.INTERACTIVE
    tenant: str = ""
    bound: Usage | None = None


class Returned(NamedTuple):
    """An attempt ended."""

    at: float
    call: int
    target: Target
    attempt: int
    verdict: Verdict
    status: int | None
    code: str | None
    took: float
    detail: str | None = None  # in our words
    usage: Usage | None = None  # where the provider said
    maybe_processed: bool = False  # and billed, although it is no answer


class Committed(NamedTuple):
    """The first output of an attempt goes to the caller: from here on there is no retry."""

    at: float
    call: int
    target: Target
    attempt: int
    took: float


class Hedged(NamedTuple):
    """Another attempt is sent beside one that is unanswered after so many seconds; `attempt` is its number."""

    at: float
    call: int
    target: Target
    attempt: int
    after: float


class HedgeRefused(NamedTuple):
    """An attempt takes long, and none was sent beside it: `gate` refused."""

    at: float
    call: int
    target: Target
    attempt: int
    gate: str


class Overtaken(NamedTuple):
    """An attempt was given up unanswered, for another was answered first. It may have been processed, and billed."""

    at: float
    call: int
    target: Target
    attempt: int
    took: float


class RetryPlanned(NamedTuple):
    """A further attempt was allowed; `free` says whether the budget was spared.

    `maybe_processed` marks it: what it repeats may have been processed, and billed. `verdict` is what the attempt came to.
    """

    at: float
    call: int
    target: Target
    attempt: int
    until: float
    free: bool
    maybe_processed: bool = False
    verdict: Verdict | None = None


class RetryRefused(NamedTuple):
    """A further attempt was refused by `gate`; `verdict` is what the one before came to."""

    at: float
    call: int
    target: Target
    attempt: int
    gate: str
    verdict: Verdict | None = None


class FellBack(NamedTuple):
    """A call goes on elsewhere: to another target, or to an answer from "cache" or "degraded"."""

    at: float
    call: int
    target: Target
    to: str
    verdict: Verdict
    maybe_processed: bool = False  # as that of a retry


class FallbackRefused(NamedTuple):
    """A call did not go on to `to`: `gate` refused, or nothing was found there."""

    at: float
    call: int
    target: Target
    to: str
    gate: str


class CallRejected(NamedTuple):
    """Nothing was sent (any more): `policy` refused."""

    at: float
    call: int
    target: Target
    policy: str
    reason: str
    retry_at: float | None


class CallEnded(NamedTuple):
    """A call is over; `maybe_processed` as that of `CallResult`, `usage` is that of the answer, wherever it comes from."""

    at: float
    call: int
    target: Target
    verdict: Verdict
    attempts: int
    waited: float
    maybe_processed: int = 0
    usage: Usage | None = None


class CallCancelled(NamedTuple):
    """A call was given up by its caller, or by a drain, before it came to an end; with `sent`, an attempt was under way."""

    at: float
    call: int
    target: Target
    sent: bool


class CircuitChanged(NamedTuple):
    """A circuit moved from one state to another."""

    at: float
    target: Target
    before: str
    after: str
    until: float | None


class CooldownStarted(NamedTuple):
    """A target asked to be left alone until `until`."""

    at: float
    target: Target
    until: float


class SpendReached(NamedTuple):
    """Of a limit of spending, so many per cent are spent; at 100 it holds calls. `target` is where the last of it went."""

    at: float
    target: Target
    percent: int
    spent: Decimal  # US dollars
    limit: Decimal
    until: float | None  # the end of the period


class WouldHave(NamedTuple):
    """What a policy in the shadow would have done, and did not: see `docs/policies.md`."""

    at: float
    target: Target
    mechanism: str
    what: str
    until: float | None


Event = (
    Labelled
    | Queued
    | Sent
    | Returned
    | Committed
    | Hedged
    | HedgeRefused
    | Overtaken
    | RetryPlanned
    | RetryRefused
    | FellBack
    | FallbackRefused
    | CallRejected
    | CallEnded
    | CallCancelled
    | CircuitChanged
    | CooldownStarted
    | SpendReached
    | WouldHave
)
