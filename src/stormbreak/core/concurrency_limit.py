"""In-flight limits: additive increase and multiplicative decrease (AIMD), or a fixed number.

The AIMD limit grows by `increase` per round trip, that is by `increase` / limit with each answer. Until the first sign
of congestion it grows by one with each answer, which doubles it per round trip. Only answers to attempts during which
the limit was reached count: an unused slot proves nothing. The limit is multiplied by `decrease_factor` when the target
throttles, is overloaded, lets an attempt time out, or (with `slow_call_threshold`) answers late. Server errors, invalid
requests and our deadline are not signs of congestion. Many such clients converge to equal shares of a target (Chiu and
Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance", 1989).

A round trip is an epoch. A decrease begins a new epoch. Results of attempts from earlier epochs change nothing, since
they belong to the old limit. So a burst of refusals counts as one sign.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Literal, TypeAlias, assert_never

from stormbreak.core.automatic_limit import AutomaticLimit, AutomaticLimiter
from stormbreak.core.checks import check_types, require, require_at_least, require_positive
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.gate import SlotGate
from stormbreak.types import Outcome, Verdict

LEARNED_FOR = 120.0  # seconds for which a decrease is remembered
CONGESTED = frozenset({Verdict.THROTTLED, Verdict.OVERLOADED, Verdict.TIMEOUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class AimdLimit:
    """A limit that starts at `initial_in_flight` and stays between `min_in_flight` and `max_in_flight`.

    It grows by `increase` per round trip, and falls to `decrease_factor` of itself. An answer that takes longer than
    `slow_call_threshold` seconds is also a sign of congestion (None: never).
    """

    kind: Literal["aimd"] = "aimd"
    finds_itself = False
    initial_in_flight: int = 20
    increase: float = 4.0
    decrease_factor: float = 0.8
    min_in_flight: int = 1
    max_in_flight: int = 256
    slow_call_threshold: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        require_at_least(self, 1, "min_in_flight")
        require(
            self.initial_in_flight >= self.min_in_flight,
            "initial_in_flight must not be below min_in_flight",
            self.initial_in_flight,
        )
        require(
            self.max_in_flight >= self.initial_in_flight,
            "max_in_flight must not be below initial_in_flight",
            self.max_in_flight,
        )
        require_positive(self, "increase", "slow_call_threshold")
        require(
            0 < self.decrease_factor < 1,
            "decrease_factor must lie between 0 and 1",
            self.decrease_factor,
        )


class AimdLimiter(SlotGate):
    """The gate that counts slots. The token is the epoch and the time in which the attempt left."""

    def __init__(self, policy: AimdLimit) -> None:
        super().__init__(policy.initial_in_flight)
        self._policy = policy
        self._slow = inf if policy.slow_call_threshold is None else policy.slow_call_threshold
        self._exact = float(policy.initial_in_flight)
        self._epoch = 0
        self._fell_at = -inf  # never yet
        self._full_at = -inf  # when the limit was last reached

    @property
    def max_limit(self) -> float:
        return self._policy.max_in_flight

    def learned(self, now: float) -> bool:
        return now - self._fell_at < LEARNED_FOR

    def take(self, _call: object, now: float) -> tuple[int, float]:
        self.in_flight += 1
        if self.in_flight >= self.limit:
            self._full_at = now
        return self._epoch, now

    def settle(
        self,
        token: tuple[int, float],
        outcome: Outcome,
        now: float,
        _uniform: float,
        /,
    ) -> None:
        """Free the slot, and adapt the limit if the attempt belongs to this epoch."""
        self.in_flight -= 1
        epoch, sent_at = token
        late = self._is_late(outcome, now - sent_at)
        if epoch != self._epoch:
            return
        if late or (outcome.verdict in CONGESTED and not outcome.own_deadline):
            self._epoch += 1
            self._fell_at = now
            self._move_to(self._exact * self._policy.decrease_factor)
        elif outcome.verdict is Verdict.OK and self._full_at >= sent_at:
            self._move_to(self._exact + self._increase())

    on_success = settle

    def _increase(self) -> float:
        step = self._policy.increase / self._exact
        return step if self._epoch else max(1.0, step)

    def _is_late(self, outcome: Outcome, took: float) -> bool:
        if outcome.verdict is Verdict.TIMEOUT:
            return not outcome.own_deadline
        return outcome.verdict is Verdict.OK and took > self._slow

    def _move_to(self, limit: float) -> None:
        policy = self._policy
        self._exact = min(float(policy.max_in_flight), max(float(policy.min_in_flight), limit))
        self.limit = int(self._exact)


# ---------------------------------------------------------------- fixed limit


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedLimit:
    """A fixed limit."""

    kind: Literal["fixed"] = "fixed"
    finds_itself = False
    max_in_flight: int = 256

    def __post_init__(self) -> None:
        check_types(self)
        require_at_least(self, 1, "max_in_flight")


class FixedLimiter(SlotGate):
    """The gate that counts slots."""

    def __init__(self, policy: FixedLimit) -> None:
        super().__init__(policy.max_in_flight)

    def resize(self, max_in_flight: int, share: float) -> None:
        """Change the limit to this process's `share` of another one."""
        self.limit = max(1, int(max_in_flight * share))


# ---------------------------------------------------------------- limiter for a policy

Limit: TypeAlias = FixedLimit | AimdLimit | AutomaticLimit
Limiter: TypeAlias = FixedLimiter | AimdLimiter | AutomaticLimiter


def limiter(
    policy: Limit,
    diagnosis: Diagnosis,
    *,
    paused: Callable[[float], bool],
    share: float,
    fixed: Callable[[FixedLimit], FixedLimiter] | None = None,
) -> Limiter:
    """Make the limiter of a policy. `paused(now)`: whether a cooldown holds.

    A fixed limit is made by `fixed`, or is multiplied by `share`, rounded down, and at least one; the others adapt
    anyway.
    """
    match policy:
        case FixedLimit():
            if fixed is not None:
                return fixed(policy)
            return FixedLimiter(FixedLimit(max_in_flight=max(1, int(policy.max_in_flight * share))))
        case AimdLimit():
            return AimdLimiter(policy)
        case AutomaticLimit():
            return AutomaticLimiter(policy, diagnosis, paused=paused)
        case _:
            assert_never(policy)
