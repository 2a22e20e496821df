"""The policy of the spend limit, and its periods. Package `cost` supplies the gate (`cost.spend_gate`)."""

from dataclasses import dataclass
from decimal import Decimal
from itertools import count
from math import inf
from typing import Literal, TypeAlias, get_args

from stormbreak.core.checks import check_types, require_at_least, require_positive

COST = "cost"
"""The policy name of a rejection because one call may exceed the whole limit, or its cost is unknown."""

MICRO = Decimal("0.000001")  # US dollars: the unit of money in a fleet

EVER = "ever"
"""The period of a limit that never starts again."""

Calendar: TypeAlias = Literal["hour", "day", "month"]
CALENDARS: tuple[Calendar, ...] = get_args(Calendar)
_HOUR, _DAY = 3600, 86_400  # seconds
_LONGEST = {"hour": _HOUR, "day": _DAY, "month": 31 * _DAY}
_MONTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)  # days


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendPolicy:
    """At most `max_usd` US dollars in every `period`, per process. None: no limit.

    A period is a number of seconds, or an hour, a day or a month of the calendar (UTC); None: it never ends. All
    targets with the same limit share it. Before an attempt leaves, its maximum cost is reserved, so its answer needs a
    bound. A request without a bound gets `max_output_tokens`; if that is None, it is rejected.
    """

    max_usd: float | None = None
    period: float | Calendar | None = None
    max_output_tokens: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        require_positive(self, "max_usd")
        if not isinstance(self.period, str):
            require_positive(self, "period")
        require_at_least(self, 1, "max_output_tokens")

    @property
    def acts(self) -> bool:
        """Whether there is a limit."""
        return self.max_usd is not None

    @property
    def per(self) -> str:
        """Its period, in words."""
        if self.period is None:
            return EVER
        return self.period if isinstance(self.period, str) else f"{self.period:.15g} s"


def period_end(calendar: Calendar, at: float) -> float:
    """Return the end of the hour, day or month (UTC) that contains `at`. Both are unix epoch seconds."""
    if calendar != "month":
        seconds = _HOUR if calendar == "hour" else _DAY
        return (at // seconds + 1) * seconds
    # Without `datetime`, which can read the clock: core may not import it.
    first = 0  # of the next month, in days
    for months in count():
        year, month = 1970 + months // 12, months % 12
        leap = month == 1 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        first += _MONTHS[month] + leap
        if first * _DAY > at:
            break
    return float(first * _DAY)


def time_left(period: float | Calendar | None, at: float) -> float:
    """Return the seconds of a period that begins at `at`, in unix epoch seconds."""
    if isinstance(period, str):
        return period_end(period, at) - at
    return inf if period is None else period


def bounded_end(calendar: Calendar, ends_at: float, at: float) -> float:
    """Return the end of a period that was to end at `ends_at`, although the clock may have been set back since.

    It still ends at `ends_at`, so that no second period begins for the same hour, unless that is more than two periods
    away.
    """
    return ends_at if ends_at - at <= 2 * _LONGEST[calendar] else period_end(calendar, at)


def restored_end(period: float | Calendar, ends_at: float, at: float) -> float:
    """Return the end of a period for which a file says `ends_at`, or some seconds less.

    If the file has another kind of period, it ends with the hour, day or month that contains `ends_at`.
    """
    if not isinstance(period, str):
        return min(ends_at, at + period)
    hour = round(ends_at / _HOUR) * _HOUR
    return bounded_end(period, period_end(period, hour - 1), at)
