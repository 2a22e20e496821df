"""What a scenario says: the provider, its limit, its troubles, the crowd around it, the load of the clients.

Values only, each checked when it is made. Times and spans are scenario seconds: the simulator plays them as
they are, sockets play `speed` of them in one real second.
"""

from dataclasses import dataclass, fields
from enum import StrEnum
from itertools import pairwise
from math import fsum
from typing import Literal

from stormbreak.errors import ConfigurationError
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
"""Seconds in which calls must succeed for a recovery: so long a simulation goes on after its trigger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Capacity. None means without a limit.

    `service` is the mean seconds of work of one answer, `cv` its coefficient of variation, `least` and `most`
    cut it; the first token comes after the share `prefill` of it. With `fills`, every answer uses, and bills, all the
    tokens that its request allows.
    """

    slots: Count | None = None
    service: Seconds = 1.0
    cv: Rate = 0.5
    least: Seconds = 0.0
    most: Span | None = None
    prefill: Share = 0.25
    queue: Depth | None = None
    front_end: Positive | None = None
    backlog: Seconds = 5.0
    require_key: bool = False
    fills: bool = False
    models: tuple[str, ...] = ("storm-1", "storm-1-mini")

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.most is not None and self.most < self.least:
            raise ConfigurationError(
                f"most must not be below least ({self.least}), got {self.most}"
            )


class LimitKind(StrEnum):
    """How requests are counted."""

    WINDOW = "window"
    BUCKET = "bucket"


class Dialect(StrEnum):
    """In whose headers the limits are told."""

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
    """`requests` and `tokens` per `per` seconds and key. A refused request costs `reject_cost` of one, and no tokens.

    Tokens on sockets are those of the prompt, and `max_tokens` or what the answer has; in the simulator a `[load]`
    says how many a call has. With `headers`, answers tell how the limits stand.
    """

    kind: LimitKind
    requests: Positive | None = None
    tokens: Positive | None = None
    per: Span = 60.0
    burst: AtLeastOne | None = None
    reject_cost: Seconds = 0.0
    form: WaitForm = WaitForm.SECONDS
    headers: Dialect | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.requests is None and self.tokens is None:
            raise ConfigurationError("requests must be given where tokens are not, got neither")
        if self.kind is LimitKind.WINDOW and self.burst is not None:
            raise ConfigurationError(f"burst means nothing for a window, got {self.burst}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something that goes wrong from `at` until `until` (None: to the end), for a `share` of the requests.

    `match`, `requests` and `first` choose among them before the share does: those whose body contains a text,
    those with these numbers (the first request is 1), the first so many attempts with each body.
    """

    kind: Kind
    at: Seconds = 0.0
    until: Span | None = None
    share: Share = 1.0
    factor: Rate | None = None  # of the capacity, or of the service time
    ramp: Ramp = 0.0  # after `until`, back to normal in a straight line
    after: Seconds = 0.05  # until a refusal is on the wire
    seconds: Seconds = 5.0  # by how much a slow answer is slower
    retry_after: Seconds | None = None
    form: WaitForm = WaitForm.SECONDS
    match: str | None = None
    requests: tuple[Count, ...] = ()
    first: Count | None = None

    @property
    def picks(self) -> bool:
        """Whether it chooses among the requests by more than chance."""
        return bool(self.match is not None or self.requests or self.first is not None)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.match == "":
            raise ConfigurationError("match must be a text that is not empty, got ''")
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
                    f"{item.name} means nothing for the kind {self.kind.value!r}, got {value!r}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """From `at` on, `rate` calls per second; within `ramp` seconds in a straight line, else at once."""

    at: Seconds
    rate: Rate
    ramp: Ramp = 0.0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackgroundTraffic:
    """The load of everybody else, lived through inside the model.

    A call that the provider refuses comes back `retries` times, about `delay` later each time. An answer
    later than `timeout` finds nobody.
    """

    rate: Rate
    steps: tuple[Step, ...] = ()
    retries: Depth = 0
    delay: Span = 1.0
    timeout: Span | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_order(self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """`calls` in one instant, `times` times, `every` seconds."""

    at: Seconds
    calls: Count
    times: Count = 1
    every: Span = 60.0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the clients under test do: read by the simulator, where they replace the crowd; ignored on sockets.

    With `beside_crowd` the crowd stays, and the clients come on top of it.

    `processes`, `deadline` and `timeout` are N, D and T of the storm tables. `trigger_at` and `trigger_until`
    bound what is measured as the trigger, which must end `RECOVERY_WINDOW` seconds before the scenario does. A call has
    `tokens` on average, lognormal with the coefficient of variation `tokens_cv`, prompt and answer together; clients
    estimate them right. With `times`, calls arrive exactly then, in this order, instead of at a rate; `sizes` then may
    say the tokens of each.
    """

    rate: Rate = 0.0
    steps: tuple[Step, ...] = ()
    herds: tuple[Burst, ...] = ()
    times: tuple[Seconds, ...] = ()
    sizes: tuple[Depth, ...] = ()
    beside_crowd: bool = False
    arrivals: Literal["poisson", "even"] = "poisson"
    processes: Count = 1
    deadline: Span = 30.0
    timeout: Span = 10.0
    preset: str = "interactive"
    tokens: Rate = 0.0
    tokens_cv: Rate = 0.0
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
        flows = bool(self.rate or self.herds or any(step.rate for step in self.steps))
        if self.times or self.sizes:
            _check_times(self, flows=flows)
        elif not flows:
            raise ConfigurationError(f"rate must be positive where no herd comes, got {self.rate}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One storm, or one calm."""

    name: str
    about: str = ""
    speed: Speed = 1.0
    duration: Span = 300.0
    provider: Provider = Provider()
    limit: Limit | None = None
    trouble: tuple[Trouble, ...] = ()
    crowd: BackgroundTraffic | None = None
    load: Load | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.load is not None:
            _check_trigger(self.load, self.duration)
            last = self.load.times[-1] if self.load.times else 0.0
            if last >= self.duration:
                raise ConfigurationError(
                    f"load.times must lie before the end (duration {self.duration}), got {last}"
                )
        for moment in sorted({trouble.at for trouble in self.trouble}):
            total = fsum(item.share for item in self.trouble if _draws(item) and _on(item, moment))
            if total > 1 + 1e-9:
                raise ConfigurationError(
                    f"trouble shares must not add up to more than 1, got {total:g} at {moment:g} s"
                )


def _check_trigger(load: Load, duration: float) -> None:
    """Refuse what a simulation could not measure."""
    if load.trigger_at is not None and load.trigger_at >= duration:
        raise ConfigurationError(
            f"load.trigger_at must be before the end (duration {duration}), got {load.trigger_at}"
        )
    if load.trigger_until is not None and load.trigger_until > duration - RECOVERY_WINDOW:
        raise ConfigurationError(
            f"load.trigger_until must be {RECOVERY_WINDOW} s before the end (duration {duration}) or earlier,"
            f" so that a recovery can be seen, got {load.trigger_until}"
        )


def _draws(trouble: Trouble) -> bool:
    return "share" in ALLOWED_KEYS[trouble.kind] and not trouble.picks


def _on(trouble: Trouble, moment: float) -> bool:
    return trouble.at <= moment and (trouble.until is None or moment < trouble.until)


def _check_times(load: Load, *, flows: bool) -> None:
    if flows:
        raise ConfigurationError("times stand alone: no rate, steps or herds beside them")
    if load.sizes and len(load.sizes) != len(load.times):
        raise ConfigurationError(
            f"sizes must be as many as times ({len(load.times)}), got {len(load.sizes)}"
        )
    for before, after in pairwise(load.times):
        if after < before:
            raise ConfigurationError(f"times must be in order, got {after} after {before}")


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
