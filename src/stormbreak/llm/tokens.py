"""Token counts: the usage of an answer; an estimate and an upper bound for a request.

The estimate is a quarter of the bytes, plus the output limit (default `ANSWER`) for each of `n` choices, as providers
reserve. The real usage is settled afterwards. Images and other data in base64 count as `DATA` tokens each.
"""

import re
from dataclasses import fields
from typing import Any

import msgspec

from stormbreak.llm.parsed_response import NO_USAGE
from stormbreak.llm.surrogates import UNREADABLE
from stormbreak.types import Usage

# ---------------------------------------------------------------- usage of an answer

_READ, _WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"
_TIMES = "cache_creation"  # tokens written, by lifetime
_SHORT, _HOUR = "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"
_SANE = 10**7  # more than any call can use: a larger count is an error


def usage_of(usage: object) -> Usage:
    """Read a `usage` object, with the field names of chat completions or of newer APIs.

    If one of its numbers is not a count, all are ignored: half a usage would be billed as the whole.

    Anthropic counts tokens written to or read from a cache separately from other input. Here they are part of the
    input, as in the usage of chat completions. xAI and Gemini count reasoning only in the total, not in the output; it
    is billed as output.
    """
    if not isinstance(usage, dict):
        return NO_USAGE
    try:
        if (_READ in usage or _WRITTEN in usage) and not usage.get("prompt_tokens"):
            return _anthropic(usage)
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
        if type(details) is not dict:
            details = {}
        entry, output, total, cached, written = _counts(
            usage.get("prompt_tokens", usage.get("input_tokens")),
            usage.get("completion_tokens", usage.get("output_tokens")),
            usage.get("total_tokens"),
            details.get("cached_tokens", usage.get(_READ)),
            details.get("cache_write_tokens", usage.get(_WRITTEN)),
        )
        hour = _by_time(usage)[1] if written else 0
    except _NoCountError:
        return NO_USAGE
    if cached or written:
        cached = min(cached, entry)
        written = min(written, entry - cached)
    return Usage(
        input_tokens=entry,
        output_tokens=max(output, total - entry) if entry else output,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(hour, written),
    )


def _anthropic(usage: dict[str, Any]) -> Usage:
    entry, output, cached, written = _counts(
        usage.get("input_tokens"), usage.get("output_tokens"), usage.get(_READ), usage.get(_WRITTEN)
    )
    short, hour = _by_time(usage)
    written = max(written, short + hour)
    return Usage(
        input_tokens=entry + cached + written,
        output_tokens=output,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=hour,
    )


def _by_time(usage: dict[str, Any]) -> list[int]:
    """Return the tokens written to a cache for five minutes, and for an hour."""
    times = usage.get(_TIMES)
    return _counts(times.get(_SHORT), times.get(_HOUR)) if type(times) is dict else [0, 0]


class _NoCountError(Exception):
    """A value is not a number of tokens."""


def _counts(*values: Any) -> list[int]:
    """Read numbers of tokens; a missing one is 0. Some servers write 12.0."""
    counts = []
    for value in values:
        if value is None:
            counts.append(0)
        elif type(value) is int and 0 <= value <= _SANE:
            counts.append(value)
        elif type(value) is float and 0 <= value <= _SANE and not value % 1:
            counts.append(int(value))
        else:
            raise _NoCountError
    return counts


# ---------------------------------------------------------------- estimate

BYTES_PER_TOKEN = 4
ANSWER = 512
DATA = 1024
_MAX_OUTPUT = 10_000_000  # no model answers with more: a larger limit is wrong
# a string, or the data after the comma of a data URL; no run is read twice
_BASE64 = re.compile(rb'[",][A-Za-z0-9+/=\\]{512,}"')


def estimate(body: bytes, *, bound: Any = None, choices: int = 1, answers: bool = True) -> int:
    """Estimate the tokens of prompt and answer together.

    `bound` is the output limit of one answer in the request; anything but a count is ignored. Embeddings have no output
    tokens: `answers` is false.
    """
    size = len(body)
    data = 0
    if size > BYTES_PER_TOKEN * DATA:
        blobs = [len(blob) for blob in _BASE64.findall(body)]
        size -= sum(blobs)
        data = DATA * len(blobs)
    prompt = size // BYTES_PER_TOKEN + 1 + data
    if not answers:
        return prompt
    return prompt + max(1, choices) * (bound if is_bounded(bound) else ANSWER)


# ---------------------------------------------------------------- upper bound
# A token of text has at least one byte, JSON never shortens a text, and a template adds less to each message than the
# JSON around it. So the bytes of the body, plus `TEMPLATE` around all of it, bound the prompt. The output
# limit (`max_tokens` and its other names, for each of `n` choices) bounds the answer. The whole prompt may be written
# to a cache: for an hour, if the body names a longer lifetime.
#
# Images are billed by their size, which the body does not state: each counts as `PICTURE`. Some requests have no bound:
# they refer to data on the server (files, earlier answers, stored prompts) or run tools there; they hold a document,
# such as a PDF, which is billed by the page; they leave the choice of the model to the server; or they ask for more
# than text: the priority tier, audio, images.

TEMPLATE = 64
TOOLS = 2048  # tokens that providers add to a prompt: always, and for tools
PICTURE = 50_000  # tokens, above every known model: GPT-4o mini counts at most 48,169
_PICTURES = re.compile(rb'"(?:image_url|input_image|image)"\s*[:,}]')
_ELSEWHERE = re.compile(
    rb'"(file_id|file_ids|file_url|file_data|video_url|document_url)"\s*:\s*[^n\s]'
    rb'|"type"\s*:\s*"(web_search|file_search|code_interpreter|code_execution|computer|mcp|image_generation|web_fetch|document)'
)
# characters that no encoder escapes, but any reader understands
_ESCAPED = re.compile(rb"\\\\|\\u00([3-7][0-9A-Fa-f])")
_KEPT = re.compile(rb'"ttl"\s*:\s*"(?!5m"|30m")')  # longer than the default lifetime

_REFERRING = (
    "previous_response_id", "conversation", "container", "mcp_servers", "prediction", "plugins", "web_search_options",
    "search_parameters", "models",
)  # fmt: skip
_NOTHING = msgspec.Raw(b"null")
_CostFields = msgspec.defstruct(
    "_CostFields",
    [
        *((name, msgspec.Raw, _NOTHING) for name in (*_REFERRING, "prompt")),
        *((name, Any, None) for name in ("modalities", "service_tier", "speed", "inference_geo")),
    ],
)
_decode_cost_fields = msgspec.json.Decoder(_CostFields).decode


def _expensive_field(body: bytes) -> str | None:
    """Return the field of a body that may cost more than its text; None if there is none."""
    given: Any = _decode_cost_fields(body)
    for name in _REFERRING:
        if bytes(getattr(given, name)) != b"null":
            return name
    if bytes(given.prompt).startswith(b"{"):
        return "prompt"  # a stored prompt; otherwise it is a text
    if given.modalities not in (None, ["text"]):
        return "modalities"
    if given.service_tier == "priority":
        return "service_tier"
    if given.inference_geo not in (None, "global"):
        return "inference_geo"
    return "speed" if given.speed == "fast" else None


def _unescaped(body: bytes) -> bytes:
    """Replace escaped letters by the letters, so that the patterns find each name; only for the patterns."""
    if b"\\u00" not in body:
        return body
    return _ESCAPED.sub(
        lambda found: bytes.fromhex(found[1].decode()) if found[1] else found[0], body
    )


def unbounded_by(body: bytes) -> str | None:
    """Return the field or type that leaves the body without a token bound; None if it has a bound."""
    try:
        field = _expensive_field(body)
    except UNREADABLE:
        field = None
    if field is not None:
        return field
    found = _ELSEWHERE.search(_unescaped(body))
    return None if found is None else (found[1] or found[2]).decode()


def input_bound(body: bytes) -> int | None:
    """Return the maximum tokens of the prompt; None if it has no bound."""
    if unbounded_by(body) is not None:
        return None
    text = _unescaped(body)
    pictures = len(_PICTURES.findall(text))
    tools = TOOLS if b'"tools"' in text or b'"functions"' in text else 0
    return len(body) + TEMPLATE + tools + PICTURE * pictures


def is_bounded(limit: Any) -> bool:
    """Whether the output limit of a body is a number that bounds its answer."""
    return type(limit) is int and 0 < limit <= _MAX_OUTPUT


def bound_of(
    body: bytes, *, bound: Any = None, choices: int = 1, answers: bool = True
) -> Usage | None:
    """Return the maximum tokens of prompt and answer; None if they have no bound. Arguments as in `estimate`."""
    if answers and not is_bounded(bound):
        return None
    prompt = input_bound(body)
    if prompt is None:
        return None
    text = _unescaped(body)
    # `in` takes a fifth of the time
    hour = prompt if b'"ttl"' in text and _KEPT.search(text) else 0
    return Usage(
        input_tokens=prompt,
        output_tokens=max(1, choices) * bound if answers else 0,
        cache_write_tokens=hour,
        cache_write_1h_tokens=hour,
    )


def most_of(*bounds: Usage | None) -> Usage | None:
    """Return a bound that covers all these bounds; None if one of them is None."""
    known = [bound for bound in bounds if bound is not None]
    if len(known) < len(bounds):
        return None
    counts = (field.name for field in fields(Usage))
    return Usage(**{count: max(getattr(bound, count) for bound in known) for count in counts})
