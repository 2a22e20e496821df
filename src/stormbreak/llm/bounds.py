"""The most tokens that a request can be billed for, told from its body before it is sent.

A token of text stands for one byte of it at least, and JSON makes no text shorter; what a template adds to each message
is less than the JSON around it. So the bytes of the body, and what templates put around the whole of it, bound the prompt.
The answer is bounded by what the body says (`max_tokens` and its other names, for each of `n` choices).

Pictures are billed by their size, which no body tells: each counts as `PICTURE`. Of some requests nothing in the body
tells the most: they refer to what lies on the server (files, earlier answers), or have tools run there; they hold
a document, such as a PDF, whose pages are billed however few bytes they have; they ask for the priority tier, which is dearer.
"""

import re
from typing import Any

from stormbreak.types import Usage

TEMPLATE = 64
TOOLS = 2048
"""What providers write around a prompt: always, and where it has tools."""

PICTURE = 50_000
"""More than any model is known to bill: GPT-4o mini counts 48,169 for the largest."""

_LARGEST = 10_000_000  # no model answers with more: a bound gone wrong
_PICTURES = re.compile(rb'"(?:image_url|input_image|image)"\s*[:,}]')
_ELSEWHERE = re.compile(
    rb'"(?:previous_response_id|conversation|container|file_id|file_ids|file_url|file_data|video_url|document_url|mcp_servers|prediction)"'
    rb"\s*:\s*[^n\s]"
    rb'|"type"\s*:\s*"(?:web_search|file_search|code_interpreter|code_execution|computer|mcp|image_generation|web_fetch|document)'
    rb'|"service_tier"\s*:\s*"priority"'
)


def input_bound(body: bytes) -> int | None:
    """The most tokens of the prompt; None where the body does not tell."""
    if _ELSEWHERE.search(body):
        return None
    pictures = len(_PICTURES.findall(body))
    tools = TOOLS if b'"tools"' in body or b'"functions"' in body else 0
    return len(body) + TEMPLATE + tools + PICTURE * pictures


def is_bound(said: Any) -> bool:
    """Whether what a body says of the length of its answer is a number that bounds it."""
    return type(said) is int and 0 < said <= _LARGEST


def bound_of(
    body: bytes, *, bound: Any = None, choices: int = 1, answers: bool = True
) -> Usage | None:
    """The most tokens of prompt and answer; None where the body does not tell. The arguments are those of `estimate`."""
    most = input_bound(body)
    if most is None or not (is_bound(bound) or not answers):
        return None
    return Usage(input_tokens=most, output_tokens=max(1, choices) * bound if answers else 0)
