"""What can be configured about a circuit breaker, and the states it can be in."""

from dataclasses import dataclass, field
from enum import StrEnum

from stormbreak.core.checks import check_types, require
from stormbreak.core.trip import DeadTarget, TripRule


class State(StrEnum):
    """Where a circuit stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    ISOLATED = "isolated"


class Mode(StrEnum):
    """What a breaker may do. Isolating by hand works in every mode."""

    NORMAL = "normal"
    METRICS_ONLY = "metrics_only"  # counts, and says when it would have opened; never opens
    DISABLED = "disabled"  # lets pass, and counts nothing
    FORCED_OPEN = "forced_open"  # lets nothing pass


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When to open, how long to stay open, and what it takes to close again.

    `open_for` seconds are moved by chance by up to +-`jitter` of themselves, after each failed trial they are
    `growth` times as long, up to `longest_open`. With `heed_server` a circuit that opens stays open at least
    until the time that a failure named.

    Half-open sends at most `probes`, no more than `at_once` at the same time; one unanswered for `lease` seconds makes room
    for another. So does one that is older than usual, after answers on time: one per open time, which grows likewise. `close_at` is the share of them that must succeed. A trial without a decision after `longest_half_open`
    seconds opens the circuit again (None: it never does).
    """

    mode: Mode = Mode.NORMAL
    trip: TripRule = field(default_factory=DeadTarget)
    open_for: float = 0.75
    jitter: float = 0.25
    growth: float = 1.1
    longest_open: float = 5.0
    heed_server: bool = True
    probes: int = 3
    at_once: int = 3
    close_at: float = 0.33
    any_failure_reopens: bool = False
    lease: float = 60.0
    longest_half_open: float | None = 900.0

    def __post_init__(self) -> None:
        check_types(self)
        require(self.mode in [*Mode], f"mode must be one of {', '.join(Mode)}", self.mode)
        object.__setattr__(self, "mode", Mode(self.mode))  # which may be given as a word
        require(self.open_for > 0, "open_for must be positive", self.open_for)
        require(0 <= self.jitter < 1, "jitter must lie in [0, 1)", self.jitter)
        require(self.growth >= 1, "growth must be at least 1", self.growth)
        require(self.longest_open > 0, "longest_open must be positive", self.longest_open)
        require(self.probes >= 1, "probes must be at least 1", self.probes)
        require(self.at_once >= 1, "at_once must be at least 1", self.at_once)
        require(0 < self.close_at <= 1, "close_at must lie in (0, 1]", self.close_at)
        require(self.lease > 0, "lease must be positive", self.lease)
        longest = self.longest_half_open
        require(longest is None or longest > 0, "longest_half_open must be positive", longest)

    @property
    def most_open(self) -> float:
        """The longest open time that this policy makes by itself, before jitter."""
        return self.open_for if self.growth == 1 else max(self.longest_open, self.open_for)

    def longer(self, open_for: float) -> float:
        """The open time that follows upon `open_for`, before jitter."""
        return min(open_for * self.growth, self.most_open)
