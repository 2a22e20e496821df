"""Tokens, as a provider counted them, out of the `usage` object of an answer."""

from typing import Any

from stormbreak.llm.reading import NO_USAGE
from stormbreak.types import Usage

_READ, _WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"
_TIMES = "cache_creation"  # the latter, by how long it is kept
_SHORT, _HOUR = "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"
_SANE = 10**7  # more than any call can use: a counter gone wrong


def usage_of(usage: object) -> Usage:
    """Read a `usage` object, in the words of chat completions or of newer APIs.

    Where one of its numbers is no count, none of them is believed: half a usage would be taken for the whole, and billed.

    Anthropic counts what was written to a cache, or read from one, beside the other input: here it is part of it, as it is
    where a gateway tells of it in the words of chat completions. Some (xAI, Gemini) count what a model has thought beside
    its output, in the total alone: it is billed as output.
    """
    if not isinstance(usage, dict):
        return NO_USAGE
    try:
        return _read(usage)
    except _NoCountError:
        return NO_USAGE


def _read(usage: dict[str, Any]) -> Usage:
    if (_READ in usage or _WRITTEN in usage) and not usage.get("prompt_tokens"):
        return _anthropic(usage)
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    if type(details) is not dict:
        details = {}
    entry = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    output = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    total = _count(usage.get("total_tokens"))
    cached = min(_count(details.get("cached_tokens", usage.get(_READ))), entry)
    written = _count(details.get("cache_write_tokens", usage.get(_WRITTEN)))
    hour = _by_time(usage)[1] if written else 0
    written = min(written, entry - cached)
    return Usage(
        input_tokens=entry,
        output_tokens=max(output, total - entry) if entry else output,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(hour, written),
    )


def _anthropic(usage: dict[str, Any]) -> Usage:
    cached, written = _count(usage.get(_READ)), _count(usage.get(_WRITTEN))
    short, hour = _by_time(usage)
    written = max(written, short + hour)
    return Usage(
        input_tokens=_count(usage.get("input_tokens")) + cached + written,
        output_tokens=_count(usage.get("output_tokens")),
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=hour,
    )


def _by_time(usage: dict[str, Any]) -> tuple[int, int]:
    """What was written for five minutes, and for an hour."""
    said = usage.get(_TIMES)
    return (_count(said.get(_SHORT)), _count(said.get(_HOUR))) if type(said) is dict else (0, 0)


class _NoCountError(Exception):
    """It is there, and no number of tokens."""


def _count(value: Any) -> int:
    """A number of tokens; what is not there is 0. Some servers write 12.0."""
    if value is None:
        return 0
    if type(value) not in (int, float) or not 0 <= value <= _SANE or value % 1:
        raise _NoCountError
    return int(value)
