"""Parse the wait that a server names: `Retry-After` in all its forms, reset headers, the hint in the body.

Sources, in this order: `retry-after-ms`, `x-ms-retry-after-ms`, `x-amz-retry-after` (milliseconds), `retry-after`, the
hint of the body, and, on a 429 alone, the reset of a limit that is used up. The first that can be read decides. Resets
come last, since they say when a limit is full again, which is later than when the next call fits.

A wait that is zero, negative, in the past or garbage is None: the caller backs off by itself. Dates are compared with
the response's own `Date`, so that a wrong clock on either side does no harm. Some servers write a point in time instead
of a span (`Retry-After: 1795557602`): a bare number that is a time within 30 days of now, in seconds or milliseconds, is
read as one. As a span it would be too long to wait for anyway.
"""

import re
from collections.abc import Iterator, Mapping

from stormbreak.llm.time_formats import duration, number, parse_http_date, rfc3339, wait

# ---------------------------------------------------------------- reset times
# When a limit is full again, in seconds from now, in every form that servers write: `1s`, `6m0s`,
# `2m59.56s`, `12ms`, `1d2h`; `30`, `8.64`; `2026-11-24T22:00:30Z`; a point in time in seconds or in
# milliseconds since 1970. A bare number of 30 days or more is a point in time, not a span.

EPOCH_FROM = 30 * 86_400
_EPOCH_MS_FROM = 1e11  # the year 5138 in seconds, 1973 in milliseconds


def parse_reset(text: str, now: float) -> float | None:
    """Read a reset; `now` is unix epoch seconds by the server's clock.

    None if it is none; zero or less where it has passed.
    """
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
_NEAR = 30 * 86_400  # where a span belongs, a number is a point in time only this near to now
_IETF_ITEM = re.compile(r";\s*([rt])=(\d{1,18})(?![\d.])", re.ASCII)


def retry_after(
    headers: Mapping[str, str], *, status: int, received_at: float, hint: float | None = None
) -> float | None:
    """Return the seconds to wait after a failure; None if the server named no time.

    Args:
        headers: by lower-case name.
        status: the HTTP status; resets count on a 429 only.
        received_at: unix epoch seconds, used for dates if the answer has no `Date`.
        hint: seconds that the body asked for.
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
    """Read a bare number as a span, or as a point in time if that is near."""
    if written >= EPOCH_FROM:
        for at in (written, written / 1000):
            if abs(at - now) <= _NEAR:
                return at - now
    return written / per_second


def parse_server_date(headers: Mapping[str, str], received_at: float) -> float:
    """Return the time by the server's clock, or else by ours."""
    date = parse_http_date(headers.get("date", "").strip(), received_at)
    return received_at if date is None else date


def _exhausted(headers: Mapping[str, str], now: float) -> Iterator[float | None]:
    """Yield the resets of the limits of which nothing remains."""
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
