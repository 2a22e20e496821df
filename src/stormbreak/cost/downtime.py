"""What a storm costs, and what a policy changes: downtime in money.

The rate is somebody's own downtime: so many minutes cost so much. Answers that did not come in time are worth as much downtime
as it would have taken to lose them all at once. By default it is the article's estimate, 23 minutes and 180,000 dollars:
scaled, and no forecast for anybody else.
"""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import msgspec

from stormbreak import toml_file
from stormbreak.core.checks import require
from stormbreak.errors import ConfigurationError

MINUTE = 60

LARGEST = 256 * 1024 * 1024
"""Bytes of a result: hours of a storm under several policies."""

_WHAT = "the result of a storm"

_LONGEST = 10**9  # seconds
_LARGEST = 10  # of a share; in a short time more can be answered than came in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Downtime:
    """A downtime that somebody has lived through, and what it cost, in dollars."""

    minutes: Decimal = Decimal(23)
    cost: Decimal = Decimal(180_000)

    @property
    def per_minute(self) -> Decimal:
        """What a minute without any answer costs."""
        return self.cost / self.minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What one policy loses in a storm: a share of the possible answers, worth so many minutes of downtime."""

    policy: str
    share: Decimal
    minutes: Decimal
    cost: Decimal


class _Run(msgspec.Struct):
    policy: str
    goodput: Decimal | None  # None: no answer was possible


class Storm(msgspec.Struct):
    """What `storm run --json` has printed. Without its own times, they are those of the scenario."""

    scenario: str
    policy: str
    runs: list[_Run]
    duration: Decimal | None = None
    trigger_at: Decimal | None = None
    trigger_until: Decimal | None = None

    def goodput(self) -> dict[str, Decimal]:
        """The mean of each policy's runs; the policy asked for comes first."""
        of: dict[str, list[Decimal]] = {self.policy: []}
        for run in self.runs:
            nothing_lost = Decimal(1)
            of.setdefault(run.policy, []).append(
                nothing_lost if run.goodput is None else run.goodput
            )
        return {policy: sum(all_, Decimal(0)) / len(all_) for policy, all_ in of.items() if all_}


def read_storm_result(path: Path) -> Storm:
    """Read a result. Raises ConfigurationError, which names the file."""
    try:
        storm = msgspec.json.decode(
            toml_file.read_bytes(path, what=_WHAT, largest=LARGEST), type=Storm
        )
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ConfigurationError(f"{path}: not what storm run --json prints") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    if not storm.runs:
        raise ConfigurationError(f"{path}: holds no run")
    try:
        _check(storm)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    return storm


def _check(storm: Storm) -> None:
    for place, run in enumerate(storm.runs):
        goodput = run.goodput
        share = goodput is None or (goodput.is_finite() and 0 <= goodput <= _LARGEST)
        require(share, f"runs[{place}].goodput must be a share", goodput)
    for name in ("duration", "trigger_at", "trigger_until"):
        time = getattr(storm, name)
        fits = time is None or (time.is_finite() and 0 <= time <= _LONGEST)
        require(fits, f"{name} must be seconds up to {_LONGEST:,}", time)


def losses(storm: Storm, seconds: Decimal, downtime: Downtime) -> list[Loss]:
    """What each policy loses in so many seconds, from the trigger on."""
    return [lost(policy, goodput, seconds, downtime) for policy, goodput in storm.goodput().items()]


def lost(policy: str, goodput: Decimal, seconds: Decimal, downtime: Downtime) -> Loss:
    """What it costs to give `goodput` of the possible answers for so many seconds."""
    share = min(Decimal(1), max(Decimal(0), 1 - goodput))
    minutes = share * seconds / MINUTE
    return Loss(policy=policy, share=share, minutes=minutes, cost=minutes * downtime.per_minute)
