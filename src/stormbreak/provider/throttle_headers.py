"""Encode rate-limit headers in the dialects of providers, and Retry-After."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from itertools import islice

from stormbreak.http.h1.request_parser import Headers
from stormbreak.provider.fault_kinds import WaitForm
from stormbreak.provider.rate_limit import LimitState
from stormbreak.provider.scenario import Dialect

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_WAIT = 1e9  # seconds; no date can be written for much more


def retry_after_headers(
    form: WaitForm, wait: float | None, now: float
) -> tuple[Headers, float | None]:
    """Encode a wait of real seconds from the wall-clock time `now`.

    Returns the headers and the seconds that they name, which rounding can only make longer.
    """
    if wait is None or form is WaitForm.BARE:
        return (), None
    wait = min(wait, _MAX_WAIT)
    if form is WaitForm.MS:
        milliseconds = math.ceil(wait * 1000)
        return (("retry-after-ms", str(milliseconds)),), milliseconds / 1000
    if form is WaitForm.DATE:
        second = math.ceil(now + wait)
        return (("retry-after", formatdate(second, usegmt=True)),), second - now
    seconds = max(1, math.ceil(wait))
    return (("retry-after", str(seconds)),), float(seconds)


def limit_headers(dialect: Dialect, limit_states: Sequence[LimitState], now: float) -> Headers:
    """Encode limit states; `now` is the wall-clock time, resets are real seconds."""
    reported = [one for one in limit_states if not one.tokens or dialect not in _OF_REQUESTS]
    return tuple(pair for one in reported for pair in _DIALECTS[dialect](one, now))


_Pairs = Iterator[tuple[str, str]]


def _openai(one: LimitState, _: float) -> _Pairs:
    return _pairs(f"x-ratelimit-{{}}-{_thing(one)}", one, _go(one.reset))


def _azure_unknown(one: LimitState, _: float) -> _Pairs:
    """unknown, as Azure's Responses API reports it."""
    yield f"x-ratelimit-limit-{_thing(one)}", "-1"
    yield f"x-ratelimit-remaining-{_thing(one)}", "0"
    yield f"x-ratelimit-reset-{_thing(one)}", "0"


def _cerebras(one: LimitState, _: float) -> _Pairs:
    return _pairs(f"x-ratelimit-{{}}-{_thing(one)}-minute", one, f"{max(0.0, one.reset):.9f}")


def _mistral(one: LimitState, _: float) -> _Pairs:
    word = "tokens" if one.tokens else "req"
    return islice(_pairs(f"x-ratelimit-{{}}-{word}-minute", one, ""), 2)


def _anthropic(one: LimitState, now: float) -> _Pairs:
    at = _EPOCH + timedelta(seconds=math.ceil(now + one.reset))
    reset = at.isoformat().replace("+00:00", "Z")
    return _pairs(f"anthropic-ratelimit-{_thing(one)}-{{}}", one, reset)


def _ietf(one: LimitState, _: float) -> _Pairs:
    yield "ratelimit-policy", f'"default";q={int(one.limit)}'
    yield "ratelimit", f'"default";r={int(one.remaining)};t={math.ceil(one.reset)}'


_DIALECTS: Mapping[Dialect, Callable[[LimitState, float], _Pairs]] = {
    Dialect.OPENAI: _openai,
    Dialect.GROQ: _openai,
    Dialect.AZURE: lambda one, _: _pairs(
        f"x-ratelimit-{{}}-{_thing(one)}", one, str(math.ceil(one.reset))
    ),
    Dialect.AZURE_UNKNOWN: _azure_unknown,
    Dialect.CEREBRAS: _cerebras,
    Dialect.ANTHROPIC: _anthropic,
    Dialect.MISTRAL: _mistral,
    Dialect.OPENROUTER: lambda one, now: _pairs(
        "x-ratelimit-{}", one, str(math.ceil((now + one.reset) * 1000))
    ),
    Dialect.IETF: _ietf,
    Dialect.IETF_06: lambda one, _: _pairs("ratelimit-{}", one, str(math.ceil(one.reset))),
}
_OF_REQUESTS = frozenset({Dialect.OPENROUTER, Dialect.IETF, Dialect.IETF_06})


def _thing(one: LimitState) -> str:
    return "tokens" if one.tokens else "requests"


def _pairs(names: str, one: LimitState, reset: str) -> _Pairs:
    yield names.format("limit"), str(int(one.limit))
    yield names.format("remaining"), str(int(one.remaining))
    yield names.format("reset"), reset


def _go(seconds: float) -> str:
    """Format a duration as Go does: `12ms`, `8.64s`, `6m0s`, `1h2m3s`."""
    ms = math.ceil(seconds * 1000)
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(ms, 60_000)
    written = f"{rest / 1000:g}s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        written = f"{hours}h{minutes}m{written}" if hours else f"{minutes}m{written}"
    return written
