"""The policy of a circuit breaker, its states, and the verdicts that it counts."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from stormbreak.core.checks import check_types, require, require_at_least, require_positive
from stormbreak.core.trip import DeadTarget, TripRule
from stormbreak.types import TREATMENTS, Tally, Treatment, Verdict


class State(StrEnum):
    """The state of a circuit."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    ISOLATED = "isolated"


CLOSED = State.CLOSED


class Mode(StrEnum):
    """The mode of a breaker. Isolation works in every mode."""

    NORMAL = "normal"
    METRICS_ONLY = "metrics_only"  # counts and reports when it would open; never opens
    DISABLED = "disabled"  # lets calls pass and counts nothing
    FORCED_OPEN = "forced_open"  # lets no call pass


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When to open, how long to stay open, and when to close. Durations are seconds, ratios 0 to 1.

    `mode` turns the breaker off, or lets it only measure. `trip` is the rule that opens it (`stormbreak.core.trip`).

    `open_duration` varies at random by up to +-`open_duration_jitter` of itself. After each failed trial it is
    multiplied by `open_duration_factor`, up to `max_open_duration`. With `respect_retry_after` an open circuit stays
    open at least as long as a failure's Retry-After.

    A half-open circuit sends at most `probes`, and at most `max_concurrent_probes` at the same time. A probe without an
    answer makes room for another one after `probe_lease` seconds. If answers came on time before, it does so as soon as
    it is older than usual, but only one probe per open time, which grows as above. `success_ratio` is the share of
    probes that must succeed; with `reopen_on_any_failure` one failure opens the circuit. A trial without a decision
    after `max_half_open_duration` opens the circuit again (None: never).
    """

    mode: Mode = Mode.NORMAL
    trip: TripRule = field(default_factory=DeadTarget)
    open_duration: float = 0.75
    open_duration_jitter: float = 0.25
    open_duration_factor: float = 1.1
    max_open_duration: float = 5.0
    respect_retry_after: bool = True
    probes: int = 3
    max_concurrent_probes: int = 3
    success_ratio: float = 0.33
    reopen_on_any_failure: bool = False
    probe_lease: float = 60.0
    max_half_open_duration: float | None = 900.0

    def __post_init__(self) -> None:
        check_types(self)
        require(self.mode in [*Mode], f"mode must be one of {', '.join(Mode)}", self.mode)
        object.__setattr__(self, "mode", Mode(self.mode))  # the argument may be a word
        require_positive(
            self, "open_duration", "max_open_duration", "probe_lease", "max_half_open_duration"
        )
        require_at_least(self, 1, "open_duration_factor", "probes", "max_concurrent_probes")
        require(
            0 <= self.open_duration_jitter < 1,
            "open_duration_jitter must lie in [0, 1)",
            self.open_duration_jitter,
        )
        require(
            0 < self.success_ratio <= 1, "success_ratio must be within (0, 1]", self.success_ratio
        )

    @property
    def open_duration_limit(self) -> float:
        """The longest open time under this policy, before jitter and without a Retry-After."""
        return (
            self.open_duration
            if self.open_duration_factor == 1
            else max(self.max_open_duration, self.open_duration)
        )

    def longer(self, open_for: float) -> float:
        """Return the open time after one of `open_for` seconds, before jitter."""
        return min(open_for * self.open_duration_factor, self.open_duration_limit)


# ---------------------------------------------------------------- which verdicts count

_OUR_OWN = (Verdict.REJECTED, Verdict.CANCELLED)

COUNTABLE = tuple(verdict for verdict in Verdict if verdict not in (Verdict.OK, *_OUR_OWN))
"""Verdicts that a policy can count as failures or ignore: all except success and verdicts that we cause."""


def check_verdict_lists(failures: Collection[Verdict], ignored: Collection[Verdict]) -> None:
    """Check the `failures` and `ignored` of a policy.

    Raises:
        ConfigurationError: a verdict cannot count, or is in both.
    """
    for name, verdicts in ("failures", failures), ("ignored", ignored):
        odd = [str(verdict) for verdict in verdicts if verdict not in COUNTABLE]
        require(not odd, f"{name} must name only verdicts that can count", ", ".join(odd))
    both = [str(verdict) for verdict in ignored if verdict in failures]
    require(not both, "ignored must name none of failures", ", ".join(both))


def tallied(failures: Iterable[Verdict], ignored: Iterable[Verdict]) -> Mapping[Verdict, Treatment]:
    """Return the verdict table with `failures` counted as failures and `ignored` not counted."""
    table = dict(TREATMENTS)
    for tally, verdicts in (Tally.FAILURE, failures), (Tally.NOTHING, ignored):
        for verdict in verdicts:
            table[verdict] = table[verdict]._replace(tally=tally)
    return table
