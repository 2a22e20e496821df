"""Encode rate-limit headers in the dialects of providers, and Retry-After."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from types import MappingProxyType

from stormbreak.http.h1.server_message import Headers
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
    return tuple(_DIALECTS[dialect](limit_states, now))


_Pairs = Iterator[tuple[str, str]]


def _openai(limit_states: Sequence[LimitState], _: float) -> _Pairs:
    for one in limit_states:
        yield from _openai_pair(f"x-ratelimit-{{}}-{_thing(one)}", one, _go(one.reset))


def _azure(limit_states: Sequence[LimitState], _: float) -> _Pairs:
    for one in limit_states:
        yield from _openai_pair(f"x-ratelimit-{{}}-{_thing(one)}", one, str(math.ceil(one.reset)))


def _azure_unknown(limit_states: Sequence[LimitState], _: float) -> _Pairs:
    """unknown, as Azure's Responses API reports it."""
    for one in limit_states:
        yield f"x-ratelimit-limit-{_thing(one)}", "-1"
        yield f"x-ratelimit-remaining-{_thing(one)}", "0"
        yield f"x-ratelimit-reset-{_thing(one)}", "0"


def _cerebras(limit_states: Sequence[LimitState], _: float) -> _Pairs:
    for one in limit_states:
        names = f"x-ratelimit-{{}}-{_thing(one)}-minute"
        yield from _openai_pair(names, one, f"{max(0.0, one.reset):.9f}")


def _mistral(limit_states: Sequence[LimitState], _: float) -> _Pairs:
    for one in limit_states:
        word = "tokens" if one.tokens else "req"
        yield from list(_openai_pair(f"x-ratelimit-{{}}-{word}-minute", one, ""))[:2]


def _anthropic(limit_states: Sequence[LimitState], now: float) -> _Pairs:
    for one in limit_states:
        at = _EPOCH + timedelta(seconds=math.ceil(now + one.reset))
        reset = at.isoformat().replace("+00:00", "Z")
        yield from _openai_pair(f"anthropic-ratelimit-{_thing(one)}-{{}}", one, reset)


def _openrouter(limit_states: Sequence[LimitState], now: float) -> _Pairs:
    for one in limit_states:
        if not one.tokens:
            yield from _openai_pair("x-ratelimit-{}", one, str(math.ceil((now + one.reset) * 1000)))


def _ietf_06(limit_states: Sequence[LimitState], _: float) -> _Pairs:
    for one in limit_states:
        if not one.tokens:
            yield from _openai_pair("ratelimit-{}", one, str(math.ceil(one.reset)))


def _ietf(limit_states: Sequence[LimitState], _: float) -> _Pairs:
    for one in limit_states:
        if not one.tokens:
            yield "ratelimit-policy", f'"default";q={int(one.limit)}'
            yield "ratelimit", f'"default";r={int(one.remaining)};t={math.ceil(one.reset)}'


_DIALECTS: Mapping[Dialect, Callable[[Sequence[LimitState], float], _Pairs]] = MappingProxyType(
    {
        Dialect.OPENAI: _openai,
        Dialect.GROQ: _openai,
        Dialect.AZURE: _azure,
        Dialect.AZURE_UNKNOWN: _azure_unknown,
        Dialect.CEREBRAS: _cerebras,
        Dialect.ANTHROPIC: _anthropic,
        Dialect.MISTRAL: _mistral,
        Dialect.OPENROUTER: _openrouter,
        Dialect.IETF: _ietf,
        Dialect.IETF_06: _ietf_06,
    }
)


def _thing(one: LimitState) -> str:
    return "tokens" if one.tokens else "requests"


def _openai_pair(names: str, one: LimitState, reset: str) -> _Pairs:
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
