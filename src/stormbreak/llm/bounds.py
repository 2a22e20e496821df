"""The most tokens that a request can be billed for, told from its body before it is sent.

A token of text stands for one byte of it at least, and JSON makes no text shorter; what a template adds to each message
is less than the JSON around it. So the bytes of the body, and what templates put around the whole of it, bound the prompt.
The answer is bounded by what the body says (`max_tokens` and its other names, for each of `n` choices). All of the prompt
may be written to a cache: for an hour, where the body says for how long something is kept there.

Pictures are billed by their size, which no body tells: each counts as `PICTURE`. Of some requests nothing in the body
tells the most: they refer to what lies on the server (files, earlier answers, stored prompts), or have tools run there;
they hold a document, such as a PDF, whose pages are billed however few bytes they have; they leave the model to the server,
or ask for what is dearer than its text: the priority tier, sounds, pictures.
"""

import re
from typing import Any

import msgspec

from stormbreak.llm.halves import UNREADABLE
from stormbreak.types import Usage

TEMPLATE = 64
TOOLS = 2048
"""What providers write around a prompt: always, and where it has tools."""

PICTURE = 50_000
"""More than any model is known to bill: GPT-4o mini counts 48,169 for the largest."""

_LARGEST = 10_000_000  # no model answers with more: a bound gone wrong
_PICTURES = re.compile(rb'"(?:image_url|input_image|image)"\s*[:,}]')
_ELSEWHERE = re.compile(
    rb'"(file_id|file_ids|file_url|file_data|video_url|document_url)"\s*:\s*[^n\s]'
    rb'|"type"\s*:\s*"(web_search|file_search|code_interpreter|code_execution|computer|mcp|image_generation|web_fetch|document)'
)
_KEPT = re.compile(rb'"ttl"\s*:\s*"(?!5m"|30m")')  # for longer than a cache does unasked
_NOTHING = msgspec.Raw(b"null")


_REFERRING = (
    "previous_response_id", "conversation", "container", "mcp_servers", "prediction", "plugins", "web_search_options",
    "search_parameters", "models",
)  # fmt: skip


class _CostFields(msgspec.Struct):
    """The fields of a body that make more of it than it says."""

    previous_response_id: msgspec.Raw = _NOTHING
    conversation: msgspec.Raw = _NOTHING
    container: msgspec.Raw = _NOTHING
    mcp_servers: msgspec.Raw = _NOTHING
    prediction: msgspec.Raw = _NOTHING
    plugins: msgspec.Raw = _NOTHING
    web_search_options: msgspec.Raw = _NOTHING
    search_parameters: msgspec.Raw = _NOTHING
    models: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    modalities: Any = None
    service_tier: Any = None
    speed: Any = None

    @property
    def more(self) -> str | None:
        """The name of one of them that does; None where there is none."""
        for name in _REFERRING:
            said = getattr(self, name)
            if said is not _NOTHING and bytes(said) != b"null":
                return name
        if self.prompt is not _NOTHING and bytes(self.prompt).startswith(b"{"):
            return "prompt"  # one that is stored; else it is a text
        if self.modalities not in (None, ["text"]):
            return "modalities"
        if self.service_tier == "priority":
            return "service_tier"
        return "speed" if self.speed == "fast" else None


_ASKS = msgspec.json.Decoder(_CostFields)


def unbounded_by(body: bytes) -> str | None:
    """What in a body keeps the most from being told, in the word that stands there; None: nothing does."""
    try:
        more = _ASKS.decode(body).more
    except UNREADABLE:
        more = None
    if more is not None:
        return more
    found = _ELSEWHERE.search(body)
    return None if found is None else (found[1] or found[2]).decode()


def input_bound(body: bytes) -> int | None:
    """The most tokens of the prompt; None where the body does not tell."""
    if unbounded_by(body) is not None:
        return None
    pictures = len(_PICTURES.findall(body))
    tools = TOOLS if b'"tools"' in body or b'"functions"' in body else 0
    return len(body) + TEMPLATE + tools + PICTURE * pictures


def is_bounded(said: Any) -> bool:
    """Whether what a body says of the length of its answer is a number that bounds it."""
    return type(said) is int and 0 < said <= _LARGEST


def bound_of(
    body: bytes, *, bound: Any = None, choices: int = 1, answers: bool = True
) -> Usage | None:
    """The most tokens of prompt and answer; None where the body does not tell. The arguments are those of `estimate`."""
    most = input_bound(body)
    if most is None or not (is_bounded(bound) or not answers):
        return None
    hour = most if b'"ttl"' in body and _KEPT.search(body) else 0  # `in` takes a fifth of the time
    return Usage(
        input_tokens=most,
        output_tokens=max(1, choices) * bound if answers else 0,
        cache_write_tokens=hour,
        cache_write_1h_tokens=hour,
    )
