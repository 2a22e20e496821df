"""Parse the wait that a server names: `Retry-After` in all its forms, reset headers, the hint in the body.

docs/verdicts.md lists the sources in their order; the first readable one decides. Resets come last: they say when a
limit is full again, which is later than the moment when the next call fits. Dates are compared with the response's own
`Date`, so a wrong clock on either side does no harm. A bare number may be a point in time (`Retry-After: 1795557602`),
since as a duration it would be too long to wait for.
"""

import math
import re
from calendar import monthrange, timegm
from collections.abc import Iterator, Mapping

# ---------------------------------------------------------------- dates
# HTTP has three forms (RFC 9110, 5.6.7), all of them in GMT: `Sun, 06 Nov 1994 08:49:37 GMT`,
# `Sunday, 06-Nov-94 08:49:37 GMT` and `Sun Nov  6 08:49:37 1994`. Servers also write `UTC`, `+0000`, another offset or no
# zone (then it is GMT), and the day in one digit. Reset headers use RFC 3339: `1994-11-06T09:49:37.5+01:00`.
# The weekday is not checked.

_MONTHS = ("", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_YEAR = 365.2425 * 86_400

_CLOCK = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_AHEAD = r"(?P<sign>[+-])(?P<ahead_hours>[01]\d|2[0-3])(?P<ahead_minutes>[0-5]\d)"
_ZONE = rf"(?: (?:GMT|UTC?|Z|{_AHEAD}))?"
_HTTP_FORMS = tuple(
    re.compile(form, re.ASCII | re.IGNORECASE)
    for form in (
        rf"[a-z]{{3}}, (?P<day>\d\d?) (?P<month>[a-z]{{3}}) (?P<year>\d{{4}}) {_CLOCK}{_ZONE}",
        rf"[a-z]{{6,9}}, (?P<day>\d\d?)-(?P<month>[a-z]{{3}})-(?P<year>\d\d) {_CLOCK}{_ZONE}",
        rf"[a-z]{{3}} (?P<month>[a-z]{{3}}) (?P<day>[ \d]\d) {_CLOCK} (?P<year>\d{{4}}){_ZONE}",
    )
)
_RFC3339 = re.compile(
    rf"(?P<year>\d{{4}})-(?P<month>\d\d)-(?P<day>\d\d)[T ]{_CLOCK}(?P<fraction>\.\d{{1,9}})?"
    r"(?:Z|(?P<sign>[+-])(?P<ahead_hours>\d\d):(?P<ahead_minutes>\d\d))",
    re.ASCII | re.IGNORECASE,
)


def parse_http_date(text: str, now: float) -> float | None:
    """Read an HTTP date; None if it is not one. `now` decides the century of a two-digit year."""
    for form in _HTTP_FORMS:
        found = form.fullmatch(text)
        if found:
            at = _http_epoch(found, now)
            return None if at is None else at - _ahead(found)
    return None


def rfc3339(text: str) -> float | None:
    """Read an RFC 3339 date with its zone; None if it is not one."""
    found = _RFC3339.fullmatch(text)
    if not found:
        return None
    at = _epoch(int(found["year"]), int(found["month"]), int(found["day"]), found)
    return None if at is None else at + float(found["fraction"] or 0) - _ahead(found)


def _ahead(found: re.Match[str]) -> int:
    """Seconds by which the zone of a date is ahead of GMT."""
    ahead = int(found["ahead_hours"] or 0) * 3600 + int(found["ahead_minutes"] or 0) * 60
    return ahead if found["sign"] == "+" else -ahead


def _http_epoch(found: re.Match[str], now: float) -> float | None:
    name, day, year = found["month"].lower(), int(found["day"]), int(found["year"])
    month = _MONTHS.index(name) if name in _MONTHS else 0
    if len(found["year"]) == 4:
        return _epoch(year, month, day, found)
    # RFC 9110: a two-digit year that seems more than 50 years ahead is the most recent such year.
    this_year = 1970 + int(now // _YEAR) if abs(now) < 10_000 * _YEAR else 1970
    year += this_year - this_year % 100
    year += 100 if year <= this_year - 50 else 0
    year -= 100 if year > this_year + 50 else 0
    return _epoch(year, month, day, found)


def _epoch(year: int, month: int, day: int, clock: re.Match[str]) -> float | None:
    """Seconds since 1970, or None for a day or an hour that does not exist (a leap second does)."""
    hour, minute, second = int(clock["hour"]), int(clock["minute"]), int(clock["second"])
    exists = 1 <= month <= 12 and year >= 1 and 1 <= day <= monthrange(year, month)[1]
    if not exists or hour > 23 or minute > 59 or second > 60:
        return None
    return float(timegm((year, month, day, hour, minute, second)))


# ---------------------------------------------------------------- durations

MAX_WAIT = 10 * 365 * 86_400.0  # ten years, the maximum of every wait: no call waits that long
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_SECONDS = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0,
    "millisecond": 1e-3, "second": 1.0, "sec": 1.0, "minute": 60.0, "min": 60.0, "hour": 3600.0, "day": 86_400.0,
}  # fmt: skip
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)", re.ASCII)
GO_DURATION = r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h|d))+"
_GO = re.compile(GO_DURATION, re.ASCII)
_WORDS = re.compile(r"(\d+(?:\.\d+)?) ?(millisecond|second|sec|minute|min|hour|day)s?", re.ASCII)


def number(text: str) -> float | None:
    """Read digits with an optional fraction; a sign, an exponent, `inf`, `nan` and hexadecimal are not accepted.

    A number beyond the range of floats is infinite: a long wait, not a missing one.
    """
    return float(text) if _NUMBER.fullmatch(text) else None


def duration(text: str) -> float | None:
    """Read `1m3s`, `2m59.56s`, `12ms`, `1d2h` or `37 seconds`, in seconds."""
    if _GO.fullmatch(text):
        return math.fsum(float(amount) * _SECONDS[unit] for amount, unit in _PART.findall(text))
    words = _WORDS.fullmatch(text)
    return None if words is None else float(words[1]) * _SECONDS[words[2]]


def wait(seconds: float | None) -> float | None:
    """Return a duration as a wait, at most MAX_WAIT; None if it is absent, zero, negative or not a number."""
    if seconds is None or math.isnan(seconds) or seconds <= 0:
        return None
    return min(seconds, MAX_WAIT)


# ---------------------------------------------------------------- reset times
# When a limit is full again, in seconds from now, in every form that servers write: `1s`, `6m0s`,
# `2m59.56s`, `12ms`, `1d2h`; `30`, `8.64`; `2026-11-24T22:00:30Z`; a point in time in seconds or in
# milliseconds since 1970. A bare number of 30 days or more is a point in time, not a duration.

EPOCH_FROM = 30 * 86_400
_EPOCH_MS_FROM = 1e11  # the year 5138 in seconds, 1973 in milliseconds


def parse_reset(text: str, now: float) -> float | None:
    """Read the seconds until a reset; not positive if it has passed. `now`: unix seconds by the server's clock."""
    seconds = number(text)
    if seconds is None:
        at = rfc3339(text)
        return duration(text) if at is None else at - now
    if seconds >= _EPOCH_MS_FROM:
        return seconds / 1000 - now
    return seconds - now if seconds >= EPOCH_FROM else seconds


# ---------------------------------------------------------------- Retry-After

_MILLISECONDS = ("retry-after-ms", "x-ms-retry-after-ms", "x-amz-retry-after")
WAITS = (*_MILLISECONDS, "retry-after")  # headers that name a time to come back
_NEAR = 30 * 86_400  # in a header for durations, a number is a point in time only this near to now
_IETF_ITEM = re.compile(r";\s*([rt])=(\d{1,18})(?![\d.])", re.ASCII)


def retry_after(
    headers: Mapping[str, str], *, status: int, received_at: float, hint: float | None = None
) -> float | None:
    """Return the seconds to wait after a failure; None if the server named no time.

    `received_at` is unix epoch seconds, for an answer without `Date`; `hint` is the wait in the body, in seconds.
    """
    named = _named(headers, received_at) or wait(hint)
    if named is None and status == 429:
        now = parse_server_date(headers, received_at)
        waits = [wait(reset) for reset in _exhausted(headers, now)]
        named = max((span for span in waits if span is not None), default=None)
    return named


def _named(headers: Mapping[str, str], received_at: float) -> float | None:
    for name in _MILLISECONDS:
        written = number(headers.get(name, "").strip())
        if written is not None:
            named = wait(_span(written, 1000, parse_server_date(headers, received_at)))
            if named is not None:
                return named
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    now = parse_server_date(headers, received_at)
    written = number(text)
    if written is not None:
        return wait(_span(written, 1, now))
    date = parse_http_date(text, now)
    if date is None:
        date = rfc3339(text)
    return None if date is None else wait(date - now)


def _span(written: float, per_second: int, now: float) -> float:
    """Read a bare number as a duration, or as a point in time if that is near."""
    if written >= EPOCH_FROM:
        for at in (written, written / 1000):
            if abs(at - now) <= _NEAR:
                return at - now
    return written / per_second


def parse_server_date(headers: Mapping[str, str], received_at: float) -> float:
    """Return the time by the server's clock if it sent one, else by ours."""
    date = parse_http_date(headers.get("date", "").strip(), received_at)
    return received_at if date is None else date


def _exhausted(headers: Mapping[str, str], now: float) -> Iterator[float | None]:
    """Yield the resets of exhausted limits."""
    for name, value in headers.items():
        if "ratelimit" in name and "-reset" in name:
            remaining = headers.get(name.replace("-reset", "-remaining"), "").strip()
            if number(remaining) == 0:
                yield parse_reset(value.strip(), now)
    if headers.get("anthropic-ratelimit-unified-status", "").strip() == "rejected":
        yield parse_reset(headers.get("anthropic-ratelimit-unified-reset", "").strip(), now)
    for policy in headers.get("ratelimit", "").split(","):
        item = dict(_IETF_ITEM.findall(policy))
        if "t" in item and int(item.get("r", 1)) == 0:
            yield float(item["t"])
