"""Rate-limit headers: every dialect in one table, read into one structure (docs/quotas.md lists them). No input raises.

A limit of zero or less, or a negative remainder, means that the server does not know it (-1). It is ignored, like
garbage. If one quantity has several limits (per minute and per day; input, output and their sum), the limit with the
smallest share left is returned. Output is the exception: next to a limit of the sum, the limit of output counts only
when it is used up, since a call reserves mostly input.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from stormbreak.llm.retry_after import number, parse_reset, parse_server_date
from stormbreak.types import RateLimits, RateLimitStatus

_SANE = 1e12  # no limit is larger
_WINDOWS = {"minute": 60.0, "hour": 3600.0, "day": 86_400.0}
_IETF_POLICY = re.compile(r'"([^"]{0,64})"([^,]{0,200})', re.ASCII)
_IETF_ITEM = re.compile(r";\s*([qrtw])=(\d{1,15})(?![\d.])", re.ASCII)


class _Dialect(NamedTuple):
    """Header names, with `{}` for limit, remaining and reset, and their meaning."""

    names: str
    tokens: bool  # False: requests
    window: float | None = None
    flows: bool = True
    whole: str | None = None  # header of the sum: if present, this counts only when used up


def _dialects() -> Iterator[_Dialect]:
    for tokens, words in ((False, "requests"), (True, "tokens")):
        yield _Dialect(f"x-ratelimit-{{}}-{words}", tokens)
        for unit, seconds in _WINDOWS.items():
            yield _Dialect(f"x-ratelimit-{{}}-{words}-{unit}", tokens, seconds)
        yield _Dialect(f"anthropic-ratelimit-{words}-{{}}", tokens)
    yield _Dialect("x-ratelimit-{}-tokens_usage_based", tokens=True)
    yield _Dialect("x-ratelimit-{}-req-minute", tokens=False, window=60.0)
    whole = "anthropic-ratelimit-tokens-remaining"
    yield _Dialect("anthropic-ratelimit-input-tokens-{}", tokens=True)
    yield _Dialect("anthropic-ratelimit-output-tokens-{}", tokens=True, whole=whole)
    yield _Dialect("x-ratelimit-{}", tokens=False, flows=False)
    yield _Dialect("ratelimit-{}", tokens=False, flows=False)


_BY_REMAINING: Mapping[str, _Dialect] = {
    dialect.names.format("remaining"): dialect for dialect in _dialects()
}
"""Without a remainder the other headers are ignored."""

_PARTS = frozenset(f"anthropic-ratelimit-{part}-tokens-remaining" for part in ("input", "output"))


def parse_rate_limits(headers: Mapping[str, str], received_at: float) -> RateLimits | None:
    """Read the limits in the headers (by lower-case name); None if there are none.

    `received_at` is unix epoch seconds; the answer's own `Date` has precedence.
    """
    found: dict[bool, RateLimitStatus] = {}  # True: of tokens
    for is_tokens, status in _statuses(headers, received_at):
        if is_tokens not in found or _share(status) < _share(found[is_tokens]):
            found[is_tokens] = status
    return RateLimits(found.get(False), found.get(True)) if found else None


def _statuses(
    headers: Mapping[str, str], received_at: float
) -> Iterator[tuple[bool, RateLimitStatus]]:
    names = [name for name in headers if "ratelimit" in name]
    if not names:
        return
    now = parse_server_date(headers, received_at)
    names.sort(key=_PARTS.__contains__)  # after the sum, which wins a tie
    for name in names:
        dialect = _BY_REMAINING.get(name)
        if dialect is not None:
            status = _rate_limit(headers, dialect, now)
            if status is not None and not (status.remaining and dialect.whole in headers):
                yield dialect.tokens, status
        elif name == "ratelimit":
            yield from ((False, status) for status in _ietf(headers))


def _rate_limit(
    headers: Mapping[str, str], dialect: _Dialect, now: float
) -> RateLimitStatus | None:
    written = headers.get(dialect.names.format("limit"), "").strip()
    limit = _count(written)
    remaining = _count(headers[dialect.names.format("remaining")].strip())
    if remaining is None or (limit is not None and limit <= 0) or written.startswith("-"):
        return None
    reset = parse_reset(headers.get(dialect.names.format("reset"), "").strip(), now)
    if reset is not None:  # a reset in the past means now; an infinite one is ignored
        reset = max(0.0, reset) if reset < _SANE else None
    return RateLimitStatus(limit, remaining, reset, dialect.window, dialect.flows)


def _ietf(headers: Mapping[str, str]) -> Iterator[RateLimitStatus]:
    """Structured fields: `"default";r=50;t=30`, and a policy of the same name: `"default";q=100;w=10`."""
    policies = {
        name: dict(_IETF_ITEM.findall(rest))
        for name, rest in _IETF_POLICY.findall(headers.get("ratelimit-policy", ""))
    }
    for name, rest in _IETF_POLICY.findall(headers["ratelimit"]):
        item, policy = dict(_IETF_ITEM.findall(rest)), policies.get(name, {})
        if "r" in item:
            yield RateLimitStatus(
                _float(policy.get("q")) or None,
                float(item["r"]),
                _float(item.get("t")),
                _float(policy.get("w")),
                flows=False,
            )


def _share(status: RateLimitStatus) -> float:
    assert status.remaining is not None
    return status.remaining / status.limit if status.limit else float(status.remaining > 0)


def _count(text: str) -> float | None:
    counted = number(text)
    return counted if counted is not None and counted <= _SANE else None


def _float(text: str | None) -> float | None:
    return None if text is None else float(text)
