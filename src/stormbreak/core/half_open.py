"""The trial of a half-open circuit: a few probes decide whether the target has recovered.

- A probe that hangs does not hold the circuit: after its lease its place is free for another call. If the usual time of
  an answer is known, the place is free after that time already, but only one place in each open time, which grows. So
  probes that hang are replaced no faster than probes that fail. If answers were late before, a hanging probe may only be
  queued: then it keeps its place for the whole lease.
- A result counts however late, while the trial lasts: else a healthy target slower than the lease would stay locked out.
- A trial that is undecided at `ends_at` is over: what it knows is stale, or its probes came to nothing.
- A probe without a clear result gives its place to another, a bounded number of times (`ANSWERED`, `RETURNED_UNUSED`).
  Then the trial is *spent* and sends no more. Probes under way may still decide it, until their leases are over.
"""

from enum import Enum
from math import ceil, inf

import msgspec

from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.gate import NEVER, READY, InFlight
from stormbreak.core.trip import ROUNDING
from stormbreak.types import Tally

ANSWERED = 3
"""Times `probes`: answers that say nothing about health, such as a 429 or a 401. Where half of the answers are 429s, a
trial of three probes still decides 99 times in 100."""

RETURNED_UNUSED = 10
"""Times `probes`: probes without a clear result, including those that we ended ourselves: callers that cancel are no
reason to keep others away."""


class Decision(Enum):
    """The end of a trial."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Probe(msgspec.Struct, eq=False):
    """One place in a trial. `flight` belongs to the breaker."""

    trial: "Trial"
    sent_at: float
    lease_until: float
    flight: InFlight | None = None


class Trial:
    """At most `probes`, `max_concurrent_probes` at once, decided as soon as the result is certain."""

    def __init__(self, policy: BreakerPolicy, now: float, *, pace: float) -> None:
        """`pace`: the open time before."""
        self._policy = policy
        self._pace = pace  # seconds between two that leave behind others that hang
        self._needed = max(1, ceil(policy.success_ratio * policy.probes - ROUNDING))
        self._tolerated = 0 if policy.reopen_on_any_failure else policy.probes - self._needed
        longest = policy.max_half_open_duration
        self.ends_at = inf if longest is None else now + longest
        self.probes: list[Probe] = []  # that hold a place, or did until their lease was over
        self.succeeded = self.failed = 0
        self._answered = self._returned_unused = 0  # without a clear result
        self.spent = False

    def ready_at(self, now: float) -> float:
        """READY if a probe may leave, the end of the next lease, or NEVER if no probe will leave."""
        if self.spent:
            return NEVER
        holding = self._leases(now)
        left = self._policy.probes - self.succeeded - self.failed - len(holding)
        if left > 0 and len(holding) < self._policy.max_concurrent_probes:
            return READY
        return min(holding, default=READY)

    def take(self, now: float, *, lost_after: float | None = None) -> Probe:
        """Send a probe, whose place comes free when it is older than `lost_after`, an open time after another's."""
        held = [probe for probe in self.probes if probe.lease_until > now]
        if len(held) < len(self.probes):
            self._pace = self._policy.longer(self._pace)
        lease_until = now + self._policy.probe_lease
        if lost_after is not None:
            free_at = max((probe.lease_until for probe in held), default=now)
            lease_until = min(lease_until, max(now + lost_after, free_at + self._pace))
        probe = Probe(self, now, lease_until)
        self.probes = [*held, probe]
        return probe

    def settle(self, probe: Probe, tally: Tally, *, answered: bool, now: float) -> Decision | None:
        """Free the place and count; None while undecided. `answered`: not ended by us."""
        if probe in self.probes:  # else its lease is over, and its place given away
            self.probes.remove(probe)
        if tally is Tally.SUCCESS:
            self.succeeded += 1
        elif tally is Tally.FAILURE:
            self.failed += 1
        else:
            self._was_inconclusive(answered=answered)
        if self.spent:
            self.ends_at = min(self.ends_at, max(self._leases(now), default=now))
        if self.failed > self._tolerated:
            return Decision.UNHEALTHY
        return Decision.HEALTHY if self.succeeded >= self._needed else None

    def _was_inconclusive(self, *, answered: bool) -> None:
        self._answered += answered
        self._returned_unused += 1
        probes = self._policy.probes
        self.spent |= (
            self._answered >= ANSWERED * probes or self._returned_unused >= RETURNED_UNUSED * probes
        )

    def _leases(self, now: float) -> list[float]:
        """Yield when the held places become free."""
        return [probe.lease_until for probe in self.probes if probe.lease_until > now]
