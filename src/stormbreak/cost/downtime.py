"""The cost of a storm under each policy: downtime in money.

The rate comes from a past downtime: its minutes and its cost. Late answers count as the minutes of downtime that would
lose the same number. The default is the article's estimate, 23 minutes and 180,000 dollars; it is not a forecast for
other services.
"""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import msgspec

from stormbreak import file_reader
from stormbreak.core.checks import require
from stormbreak.errors import ConfigurationError, errors_at

MINUTE = 60

LARGEST = 256 * 1024 * 1024  # bytes of a result: hours of a storm under several policies
_WHAT = "the result of a storm"

_LONGEST = 10**9  # seconds
_LARGEST = 10  # goodput: in a short period, more calls can be answered than arrive


@dataclass(frozen=True, slots=True, kw_only=True)
class Downtime:
    """A past downtime and its cost, in dollars."""

    minutes: Decimal = Decimal(23)
    cost: Decimal = Decimal(180_000)

    @property
    def per_minute(self) -> Decimal:
        return self.cost / self.minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The loss under one policy: a share of the possible answers, in minutes of downtime and in dollars."""

    policy: str
    share: Decimal
    minutes: Decimal
    cost: Decimal


class _Run(msgspec.Struct):
    policy: str
    goodput: Decimal | None  # None: no answer was possible


class Storm(msgspec.Struct):
    """The output of `storm run --json`; missing times come from the scenario."""

    scenario: str
    policy: str
    runs: list[_Run]
    duration: Decimal | None = None
    trigger_at: Decimal | None = None
    trigger_until: Decimal | None = None

    def goodput(self) -> dict[str, Decimal]:
        """The mean of each policy's runs, the requested policy first."""
        of: dict[str, list[Decimal]] = {self.policy: []}
        for run in self.runs:
            nothing_lost = Decimal(1)
            of.setdefault(run.policy, []).append(
                nothing_lost if run.goodput is None else run.goodput
            )
        return {policy: sum(all_, Decimal(0)) / len(all_) for policy, all_ in of.items() if all_}


def read_storm_result(path: Path) -> Storm:
    """Read a result. Raises ConfigurationError, which names the file."""
    with errors_at(path):
        try:
            raw = file_reader.read_bytes(path, what=_WHAT, largest=LARGEST)
            storm = msgspec.json.decode(raw, type=Storm)
        except OSError as error:
            raise ConfigurationError(f"cannot be read: {error.strerror}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ConfigurationError("not the output of storm run --json") from None
        if not storm.runs:
            raise ConfigurationError("holds no run")
        _check(storm)
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
    """The loss of each policy in the `seconds` from the trigger on."""
    return [lost(policy, goodput, seconds, downtime) for policy, goodput in storm.goodput().items()]


def lost(policy: str, goodput: Decimal, seconds: Decimal, downtime: Downtime) -> Loss:
    """The loss when only the share `goodput` of the possible answers is given for `seconds`."""
    share = min(Decimal(1), max(Decimal(0), 1 - goodput))
    minutes = share * seconds / MINUTE
    return Loss(policy=policy, share=share, minutes=minutes, cost=minutes * downtime.per_minute)
