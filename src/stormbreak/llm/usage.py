"""Tokens, as a provider counted them, out of the `usage` object of an answer."""

from typing import Any

from stormbreak.llm.reading import NO_USAGE
from stormbreak.types import Usage

_READ, _WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"
_SANE = 10**7  # more than any call can use: a counter gone wrong


def usage_of(usage: object) -> Usage:
    """Read a `usage` object, in the words of chat completions or of newer APIs; what is not a count is 0.

    Anthropic counts what was written to a cache, or read from one, beside the other input: here it is part of it.
    """
    if not isinstance(usage, dict):
        return NO_USAGE
    if _READ in usage or _WRITTEN in usage:
        cached = _count(usage.get(_READ))
        return Usage(
            input_tokens=_count(usage.get("input_tokens")) + cached + _count(usage.get(_WRITTEN)),
            output_tokens=_count(usage.get("output_tokens")),
            cached_input_tokens=cached,
        )
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    return Usage(
        input_tokens=_count(usage.get("prompt_tokens", usage.get("input_tokens"))),
        output_tokens=_count(usage.get("completion_tokens", usage.get("output_tokens"))),
        cached_input_tokens=_count(details.get("cached_tokens")) if type(details) is dict else 0,
    )


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= _SANE else 0
