"""The trial of a half-open circuit: a few probes decide whether the target has recovered.

- A hanging probe does not block the circuit: after its lease its place is free for another call. If the usual duration
  of an answer is known, the place is free after that duration, but only one place per open time, which grows. So
  hanging probes are replaced no faster than failing ones. If answers were late before, a hanging probe may only be
  queued: then it keeps its place for the whole lease.
- While the trial lasts, a late result counts, too. Otherwise a healthy target that is slower than the lease would stay
  locked out.
- A trial that is undecided at `ends_at` is over: its results are stale, or its probes brought none.
- A probe without a clear result gives its place to another, a bounded number of times (`ANSWERED`, `RETURNED_UNUSED`).
  Then the trial is *spent* and sends no more. Probes in flight may still decide it, until their leases end.
"""

from enum import Enum
from math import ceil, inf

import msgspec

from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.gate import NEVER, READY, InFlight
from stormbreak.core.trip import ROUNDING
from stormbreak.types import Tally

ANSWERED = 3
"""Maximum answers that say nothing about health, such as a 429 or a 401, as a multiple of `probes`. If half of the
answers are 429s, a trial of three probes still decides 99 times in 100."""

RETURNED_UNUSED = 10
"""Maximum probes without a clear result, as a multiple of `probes`. It includes probes that we ended ourselves; it is
higher, since callers that cancel are no reason to reject others."""


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
    """At most `probes`, `max_concurrent_probes` at once; decided as soon as the result is certain."""

    def __init__(self, policy: BreakerPolicy, now: float, *, pace: float) -> None:
        """`pace`: the open time before this trial."""
        self._policy = policy
        self._pace = pace  # minimum seconds between two probes that replace hanging ones
        self._needed = max(1, ceil(policy.success_ratio * policy.probes - ROUNDING))
        self._tolerated = 0 if policy.reopen_on_any_failure else policy.probes - self._needed
        longest = policy.max_half_open_duration
        self.ends_at = inf if longest is None else now + longest
        self.probes: list[Probe] = []  # probes that hold a place, or did until their lease ended
        self.succeeded = self.failed = 0
        self._answered = self._returned_unused = 0  # probes without a clear result
        self.spent = False

    def ready_at(self, now: float) -> float:
        """Return READY if a probe may leave, the end of the next lease, or NEVER if no probe will leave."""
        if self.spent:
            return NEVER
        holding = self._leases(now)
        left = self._policy.probes - self.succeeded - self.failed - len(holding)
        if left > 0 and len(holding) < self._policy.max_concurrent_probes:
            return READY
        return min(holding, default=READY)

    def take(self, now: float, *, lost_after: float | None = None) -> Probe:
        """Send a probe. Its place becomes free after `lost_after` seconds, but at least an open time after another."""
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
        if probe in self.probes:  # otherwise its lease has ended, and another probe has its place
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
        """Return the times at which the held places become free."""
        return [probe.lease_until for probe in self.probes if probe.lease_until > now]
