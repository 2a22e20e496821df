"""Tokens, as a provider counted them, out of the `usage` object of an answer."""

from typing import Any

from stormbreak.llm.reading import NO_USAGE
from stormbreak.types import Usage

_READ, _WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"
_SANE = 10**7  # more than any call can use: a counter gone wrong


def usage_of(usage: object) -> Usage:
    """Read a `usage` object, in the words of chat completions or of newer APIs.

    Where one of its numbers is no count, none of them is believed: half a usage would be taken for the whole, and billed.

    Anthropic counts what was written to a cache, or read from one, beside the other input: here it is part of it. Some
    (xAI, Gemini) count what a model has thought beside its output, in the total alone: it is billed as output.
    """
    if not isinstance(usage, dict):
        return NO_USAGE
    try:
        return _read(usage)
    except _NoCountError:
        return NO_USAGE


def _read(usage: dict[str, Any]) -> Usage:
    if _READ in usage or _WRITTEN in usage:
        cached = _count(usage.get(_READ))
        return Usage(
            input_tokens=_count(usage.get("input_tokens")) + cached + _count(usage.get(_WRITTEN)),
            output_tokens=_count(usage.get("output_tokens")),
            cached_input_tokens=cached,
        )
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    entry = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    output = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    total = _count(usage.get("total_tokens"))
    cached = _count(details.get("cached_tokens")) if type(details) is dict else 0
    return Usage(
        input_tokens=entry,
        output_tokens=max(output, total - entry) if entry else output,
        cached_input_tokens=min(cached, entry),
    )


class _NoCountError(Exception):
    """It is there, and no number of tokens."""


def _count(value: Any) -> int:
    """A number of tokens; what is not there is 0. Some servers write 12.0."""
    if value is None:
        return 0
    if type(value) not in (int, float) or not 0 <= value <= _SANE or value % 1:
        raise _NoCountError
    return int(value)
