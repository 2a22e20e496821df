"""When a limit is whole again, in every form in which servers write it, as seconds from now.

`1s`, `6m0s`, `2m59.56s`, `12ms`, `1d2h`; `30`, `8.64`; `2026-11-24T22:00:30Z`; a point in time in seconds or in
milliseconds since 1970. A bare number of 30 days or more is a point in time, not a span.
"""

from stormbreak.llm.dates import rfc3339
from stormbreak.llm.durations import duration, number

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
