"""Gates: the conditions for sending a call, and the permit of a call that meets them all.

Every attempt passes the same gates in the same order, in one step. It then holds one permit, which one frame owns and
settles exactly once.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from math import inf
from typing import Any, Protocol

import msgspec

from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.events import Event
from stormbreak.types import TREATMENTS, Call, Outcome, Rejection, Target, Verdict

READY = -inf  # result of `ready_at`: the call may pass now
NEVER = inf  # result of `ready_at`: only an event, not time, opens the gate


class Gate(Protocol):
    """One condition for sending. A gate changes nothing but itself."""

    name: str

    takes: bool
    """Whether `take` does anything; if not, the token is the time at which the attempt leaves.

    While every gate is ready, a gate that takes nothing does not get successes either (`TargetQueue`).
    """

    def ready_at(self, call: Call, now: float, /) -> float:
        """Return READY, the time at which to ask again, or NEVER. Change nothing."""

    def take(self, call: Call, now: float, /) -> Any:
        """Let one attempt pass and return a token for `settle`. The gate must be READY for this call."""

    def settle(self, token: Any, outcome: Outcome, now: float, uniform: float, /) -> None:
        """Take back `token` and learn from `outcome`. CANCELLED frees the token and teaches nothing."""

    @property
    def on_success(self) -> Callable[[Any, Outcome, float, float], None] | None:
        """Like `settle`, for a success only; None if a success changes nothing."""


class SlotGate:
    """The gate that counts attempts in flight. This one has a fixed limit; others learn theirs."""

    name = "limit"
    takes = True

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0

    @property
    def max_limit(self) -> float:
        """The largest value that `limit` may grow to by itself."""
        return self.limit

    def ready_at(self, _call: object, _now: float) -> float:
        return READY if self.in_flight < self.limit else NEVER

    def binds(self, _now: float, /) -> bool:
        """Whether congestion or the user has set the limit."""
        return True

    def learned(self, _now: float, /) -> bool:
        """Whether recent congestion has set a limit that a new gate would have to learn again."""
        return False

    def tick(self, _now: float, _waited: float, /) -> None:
        """Update the limit. `waited` is the time in seconds that the oldest queued call has waited."""

    def take(self, _call: object, _now: float) -> Any:
        self.in_flight += 1

    def settle(self, _token: Any, _outcome: Outcome, _now: float, _uniform: float, /) -> None:
        self.in_flight -= 1

    on_success = settle


class SpendingGate(Gate, Protocol):
    """The gate that reserves the maximum cost of an attempt from its `account`."""

    account: Any

    def veto(self, call: Call, now: float) -> Rejection | None:
        """Return a rejection if `call`, which cannot leave now, never will; None if it may still leave."""

    def is_current(self, token: Any, now: float) -> bool:
        """Whether the reservation of `token` belongs to the present period."""

    def recheck_at(self) -> float:
        """Return when to ask again although the gate said NEVER; inf: not before an event."""

    def ask_fleet(self, call: Call, now: float) -> None:
        """Ask the fleet for the money that `call` lacks."""


class SpendLimits(Protocol):
    """The spend limits of one engine. Package `cost` supplies them."""

    def start_over(self) -> None:
        """Forget all spending, as in a forked child."""

    def of_tenant(self, name: str, policy: SpendPolicy) -> "SpendLimits":
        """Return the spend limits of a tenant, with separate accounts. Spending counts on after a change of limit."""

    def gate(
        self,
        policy: SpendPolicy,
        target: Target,
        emit: Callable[[Event], None],
        on_settled: Callable[[float, SpendingGate], None],
    ) -> SpendingGate | None:
        """Make the gate of a target; None without a limit. `on_settled` is called after each attempt."""

    def replace(self, changes: Sequence[tuple[Target | None, SpendPolicy, SpendPolicy]]) -> None:
        """Replace limits: (target or None for all, former policy, new policy)."""

    def snapshot(self, now: float) -> Sequence[Mapping[str, Any]]:
        """Return the state of each account."""


# ---------------------------------------------------------------- permit


class Issuer(Protocol):
    """Grants permits, and gives the tokens back to the gates."""

    @property
    def slots(self) -> object:
        """The gate that counts its permits."""

    def settle(self, permit: "Permit", outcome: Outcome, now: float, uniform: float) -> None:
        """Give every gate its token back, with the outcome of the attempt; a second time does nothing."""

    def first_output(self, tokens: list[Any], now: float) -> None:
        """Record the first output of the attempt."""


class Permit(msgspec.Struct, eq=False):  # its constructor is not written in Python
    """The tokens of all gates. One frame owns it and settles it once; a second time does nothing."""

    issuer: Issuer
    tokens: list[Any] | None  # None after it is settled
    sent_at: float
    first_output_at: float | None = None

    def first_output(self, now: float) -> None:
        if self.tokens is not None:
            self.first_output_at = now
            self.issuer.first_output(self.tokens, now)

    def settle(self, outcome: Outcome, now: float, uniform: float) -> None:
        self.issuer.settle(self, outcome, now, uniform)


# ---------------------------------------------------------------- attempt in flight


class Completion(Enum):
    """The end of an attempt, as evidence about load."""

    ANSWERED = "answered"
    REFUSED = "refused"  # refused, reset or broken: the duration says nothing
    LATE = "late"  # timed out
    CUT = "cut"  # says nothing about load: ended by us, an invalid request, a named pause


ANSWERED = Completion.ANSWERED


class InFlight(msgspec.Struct, eq=False):  # its constructor is not written in Python
    """One attempt in flight: the token of the diagnosis. With `streams`, its first output is reported.

    `block` belongs to the latency baseline, `counted` and `stalled` to the diagnosis.
    """

    sent_at: float
    streams: bool = False
    first_output_at: float | None = None
    completion: Completion | None = None
    block: Any = None
    counted: bool = False
    stalled: bool = False

    def complete(self, outcome: Outcome) -> Completion:
        """End the attempt; return the evidence of its outcome."""
        verdict = outcome.verdict
        if verdict is Verdict.OK:
            completion = Completion.ANSWERED
        else:
            paused = verdict is Verdict.THROTTLED and outcome.retry_after is not None
            if paused or outcome.own_deadline or not TREATMENTS[verdict].retry:
                completion = Completion.CUT
            elif verdict is Verdict.TIMEOUT:
                completion = Completion.LATE
            else:
                completion = Completion.REFUSED
        self.completion = completion
        return completion
