"""A scenario as values: the provider, its limit, its faults, the background traffic, the load of the clients.

Each value is checked when it is made. Times and durations are scenario seconds: the simulator uses them unchanged, the
server plays `speed` of them in one real second.
"""

from bisect import bisect_left
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from itertools import pairwise
from math import fsum
from typing import Literal

from stormbreak.errors import ConfigurationError
from stormbreak.provider.canned_answers import CannedAnswer
from stormbreak.provider.fault_kinds import ALLOWED_KEYS, REQUIRED_KEY, Kind, WaitForm
from stormbreak.provider.field_ranges import (
    AtLeastOne,
    Count,
    Depth,
    Positive,
    Ramp,
    Rate,
    Seconds,
    Share,
    Span,
    Speed,
    check_ranges,
)

RECOVERY_WINDOW = 30
"""Seconds in which calls must succeed for a recovery; a simulation lasts as long after its trigger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Capacity. None means no limit.

    `service` is the mean service time in seconds, `variation` its coefficient of variation, `min_service` and
    `max_service` cut it; the first token comes after the share `prefill` of it. With `use_max_tokens`, every answer
    uses, and bills, all the tokens that its request allows.
    """

    slots: Count | None = None
    service: Seconds = 1.0
    variation: Rate = 0.5
    min_service: Seconds = 0.0
    max_service: Span | None = None
    prefill: Share = 0.25
    queue: Depth | None = None
    max_requests_per_second: Positive | None = None
    backlog: Seconds = 5.0
    require_key: bool = False
    use_max_tokens: bool = False
    models: tuple[str, ...] = ("storm-1", "storm-1-mini")

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.max_service is not None and self.max_service < self.min_service:
            raise ConfigurationError(
                f"max_service must not be below min_service ({self.min_service}), got {self.max_service}"
            )


class LimitKind(StrEnum):
    """The kind of counter."""

    WINDOW = "window"
    BUCKET = "bucket"


class Dialect(StrEnum):
    """The dialect of the rate-limit headers."""

    OPENAI = "openai"
    GROQ = "groq"
    AZURE = "azure"
    AZURE_UNKNOWN = "azure_unknown"
    ANTHROPIC = "anthropic"
    CEREBRAS = "cerebras"
    MISTRAL = "mistral"
    OPENROUTER = "openrouter"
    IETF = "ietf"
    IETF_06 = "ietf_06"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """`requests` and `tokens` per `period` seconds and key. A refused request costs `reject_cost` of one, and no tokens.

    On sockets, the tokens are those of the prompt, plus `max_tokens` or those of the answer; in the simulator, `[load]`
    sets the tokens of a call. With `headers`, answers have rate-limit headers.
    """

    kind: LimitKind
    requests: Positive | None = None
    tokens: Positive | None = None
    period: Span = 60.0
    burst: AtLeastOne | None = None
    reject_cost: Seconds = 0.0
    retry_after_form: WaitForm = WaitForm.SECONDS
    headers: Dialect | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.requests is None and self.tokens is None:
            raise ConfigurationError("requests or tokens must be given, got neither")
        if self.kind is LimitKind.WINDOW and self.burst is not None:
            raise ConfigurationError(f"burst does not apply to a window, got {self.burst}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault from `at` until `until` (None: to the end), for a `share` of the requests.

    `match`, `requests` and `first_attempts` select requests before the share does: those whose body contains a text,
    those with these numbers (the first request is 1), the first attempts with each body.
    """

    kind: Kind
    at: Seconds = 0.0
    until: Span | None = None
    share: Share = 1.0
    factor: Rate | None = None  # of the capacity, or of the service time
    ramp: Ramp = 0.0  # seconds of a linear return to normal after `until`
    respond_after: Seconds = 0.05  # until a refusal is sent
    added_latency: Seconds = 5.0  # of a slow answer
    retry_after: Seconds | None = None
    retry_after_form: WaitForm = WaitForm.SECONDS
    match: str | None = None
    requests: tuple[Count, ...] = ()
    first_attempts: Count | None = None

    def holds(self, now: float) -> bool:
        return self.at <= now and (self.until is None or now < self.until)

    @property
    def is_selective(self) -> bool:
        """Whether it selects requests by more than chance."""
        return bool(self.match is not None or self.requests or self.first_attempts is not None)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.match == "":
            raise ConfigurationError("match must not be empty, got ''")
        if self.until is not None and self.until <= self.at:
            raise ConfigurationError(f"until must be after at ({self.at}), got {self.until}")
        needed = REQUIRED_KEY.get(self.kind)
        if needed is not None and getattr(self, needed) is None:
            raise ConfigurationError(
                f"{needed} is needed for the kind {self.kind.value!r}, got none"
            )
        if self.ramp and self.until is None:
            raise ConfigurationError(f"ramp needs until, got ramp {self.ramp}")
        for item in fields(self):
            value = getattr(self, item.name)
            known = ALLOWED_KEYS[self.kind] | {"kind", "at", "until"}
            if item.name not in known and value != item.default:
                raise ConfigurationError(
                    f"{item.name} does not apply to the kind {self.kind.value!r}, got {value!r}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """The provider's own batch API. A batch runs for `seconds`; then shares of its rows have `expired`, or `failed` with a 500."""

    seconds: Seconds = 1.0
    expired: Share = 0.0
    failed: Share = 0.0

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.expired + self.failed > 1 + 1e-9:
            both = self.expired + self.failed
            raise ConfigurationError(f"expired and failed must add up to 1 at most, got {both:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`rate` calls per second from `at`; reached linearly within `ramp` seconds."""

    at: Seconds
    rate: Rate
    ramp: Ramp = 0.0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackgroundTraffic:
    """The load of all other clients, simulated inside the model.

    A refused call is retried `retries` times, each time after about `retry_delay`. An answer later than `timeout` is
    wasted.
    """

    rate: Rate
    steps: tuple[Step, ...] = ()
    retries: Depth = 0
    retry_delay: Span = 1.0
    timeout: Span | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_order(self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """`calls` in one instant, `repeat` times, `every` seconds."""

    at: Seconds
    calls: Count
    repeat: Count = 1
    every: Span = 60.0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The load of the clients under test: read by the simulator, where it replaces the background traffic; ignored on sockets.

    With `keep_background_traffic` the background traffic stays.

    `processes`, `deadline` and `timeout` are N, D and T of the storm tables. `trigger_at` and `trigger_until` bound the
    trigger, which must end `RECOVERY_WINDOW` seconds before the scenario does. A call has `tokens` on average,
    lognormal with the coefficient of variation `tokens_variation`, prompt and answer together; clients estimate them
    exactly. With `arrival_times`, calls arrive at these times, in this order, instead of at a rate; `arrival_tokens`
    may then give the tokens of each.
    """

    rate: Rate = 0.0
    steps: tuple[Step, ...] = ()
    bursts: tuple[Burst, ...] = ()
    arrival_times: tuple[Seconds, ...] = ()
    arrival_tokens: tuple[Depth, ...] = ()
    keep_background_traffic: bool = False
    arrivals: Literal["poisson", "even"] = "poisson"
    processes: Count = 1
    deadline: Span = 30.0
    timeout: Span = 10.0
    preset: str = "interactive"
    tokens: Rate = 0.0
    tokens_variation: Rate = 0.0
    trigger_at: Seconds | None = None
    trigger_until: Span | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_order(self.steps)
        if self.trigger_until is not None and self.trigger_until <= (self.trigger_at or 0.0):
            raise ConfigurationError(
                f"trigger_until must be after trigger_at ({self.trigger_at or 0.0}),"
                f" got {self.trigger_until}"
            )
        flows = bool(self.rate or self.bursts or any(step.rate for step in self.steps))
        if self.arrival_times or self.arrival_tokens:
            _check_times(self, flows=flows)
        elif not flows:
            raise ConfigurationError(
                f"rate must be positive if there are no bursts, got {self.rate}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One storm, or one calm."""

    name: str
    description: str = ""
    speed: Speed = 1.0
    duration: Span = 300.0
    provider: Provider = Provider()
    limit: Limit | None = None
    faults: tuple[Fault, ...] = ()
    answers: tuple[CannedAnswer, ...] = ()  # on sockets; a simulation has no text
    background_traffic: BackgroundTraffic | None = None
    load: Load | None = None
    batches: Batches = Batches()

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.load is not None:
            _check_trigger(self.load, self.duration)
            last = self.load.arrival_times[-1] if self.load.arrival_times else 0.0
            if last >= self.duration:
                raise ConfigurationError(
                    f"load.arrival_times must be before the end (duration {self.duration}), got {last}"
                )
        for moment in sorted({fault.at for fault in self.faults}):
            total = fsum(item.share for item in self.faults if _draws(item) and item.holds(moment))
            if total > 1 + 1e-9:
                raise ConfigurationError(
                    f"faults: shares must not add up to more than 1, got {total:g} at {moment:g} s"
                )


def shortened(scenario: Scenario, duration: float) -> Scenario:
    """Return the first `duration` seconds of a scenario.

    Raises ConfigurationError if it is not that long, or a recovery could not be measured.
    """
    load = scenario.load
    if duration > scenario.duration:
        raise ConfigurationError(
            f"--duration must be at most the duration of {scenario.name}, {scenario.duration:g}, got {duration:g}"
        )
    if load is None:
        return replace(scenario, duration=duration)
    if load.trigger_until is not None and duration < load.trigger_until + RECOVERY_WINDOW:
        raise ConfigurationError(
            f"--duration must be at least {load.trigger_until + RECOVERY_WINDOW:g}, {RECOVERY_WINDOW} s after the trigger of"
            f" {scenario.name}, so that a recovery can be measured; got {duration:g}"
        )
    times = load.arrival_times[: bisect_left(load.arrival_times, duration)]
    if load.arrival_times and not times:
        raise ConfigurationError(
            f"--duration must be after the first call, at {load.arrival_times[0]:g} s, got {duration:g}"
        )
    load = replace(load, arrival_times=times, arrival_tokens=load.arrival_tokens[: len(times)])
    return replace(scenario, duration=duration, load=load)


def _check_trigger(load: Load, duration: float) -> None:
    """Reject a load that a simulation cannot measure."""
    if load.trigger_at is not None and load.trigger_at >= duration:
        raise ConfigurationError(
            f"load.trigger_at must be before the end (duration {duration}), got {load.trigger_at}"
        )
    if load.trigger_until is not None and load.trigger_until > duration - RECOVERY_WINDOW:
        raise ConfigurationError(
            f"load.trigger_until must be {RECOVERY_WINDOW} s before the end (duration {duration}) or earlier,"
            f" so that a recovery can be seen, got {load.trigger_until}"
        )


def _draws(fault: Fault) -> bool:
    return "share" in ALLOWED_KEYS[fault.kind] and not fault.is_selective


def _check_times(load: Load, *, flows: bool) -> None:
    if flows:
        raise ConfigurationError("arrival_times cannot be combined with rate, steps or bursts")
    if load.arrival_tokens and len(load.arrival_tokens) != len(load.arrival_times):
        raise ConfigurationError(
            f"arrival_tokens must have as many values as arrival_times ({len(load.arrival_times)}), got {len(load.arrival_tokens)}"
        )
    for before, after in pairwise(load.arrival_times):
        if after < before:
            raise ConfigurationError(f"arrival_times must be in order, got {after} after {before}")


def _check_order(steps: tuple[Step, ...]) -> None:
    for before, after in pairwise(steps):
        if after.at <= before.at:
            raise ConfigurationError(
                f"steps must be in order of at, got {after.at} after {before.at}"
            )
        if after.at < before.at + before.ramp:
            raise ConfigurationError(
                f"steps must not begin during a ramp, got {after.at} before {before.at + before.ramp}"
            )
