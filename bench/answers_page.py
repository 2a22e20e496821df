"""Writes docs/background/answers.md: what each provider documents, and what the readers make of it.

python bench/answers_page.py

Nothing on the page is written by hand: every example goes through the same readers as an answer.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from answer_examples import (
    ERROR_SHAPES,
    SOURCES,
    STATUSES_OF,
    STREAM_ENDINGS,
    ErrorShape,
    StreamEnding,
)
from stormbreak.llm.endpoints import Shape, shape_of
from stormbreak.llm.error_tables import BROAD_CODES, CODES, MINIMAX_CODES, PHRASES, Code
from stormbreak.llm.finish_reasons import FINISH_REASONS
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.llm.providers import PRESETS
from stormbreak.llm.response_verdict import read_answer, verdict_of_status
from stormbreak.llm.stream_reader import StreamAssembler
from stormbreak.types import TREATMENTS, Verdict

PAGE = Path(__file__).parent.parent / "docs" / "background" / "answers.md"

INTRODUCTION = """\
# What each provider answers

Look up a finish reason, an error or the end of a stream, and see which verdict stormbreak gives it. The rules behind
the tables, and what each verdict does, are in [verdicts.md](../verdicts.md).

This page is made from the tables of the code, by its own readers: `python bench/answers_page.py` writes it, and a test
fails when it is out of date."""

REASONS = """\
The case does not matter. Gemini puts its own reason after that of chat completions
(`content_filter: PROHIBITED_CONTENT`). An answer has output if any choice has text, reasoning, a refusal or a tool
call. An empty answer that was filtered, or malformed by the model, is no success; nor is one that the server aborted. An
unknown reason counts as complete, since to reject a good answer is to pay for it twice; without a message the answer is
`broken`."""

SHAPES = """\
An error inside a success, in a choice or in an event of a stream, counts as the error that it names. The forms below the
line count only if the status, or the name of the event, marks an error."""

ENDINGS = """\
The last events of a stream, before its body ends. Any other ending breaks the answer."""


def page() -> str:
    """Write the page."""
    parts = [
        INTRODUCTION,
        "## Finish reasons",
        REASONS,
        _table(("reason", "means", "with output", "with nothing", "documented by"), _reasons()),
        "## What errors look like",
        SHAPES,
        _table(("form", "verdict of the example", "documented by"), _shapes()),
        "## Codes and types of errors",
        "[Verdicts by code](../verdicts.md#by-code) says what a code decides beside a status.",
        _table(("code or type", "verdict", "documented by"), _codes(CODES)),
        "These decide only where an error came without a status of its own:",
        _table(("type", "verdict", "documented by"), _codes(BROAD_CODES)),
        "The codes of MiniMax, in the `base_resp` of a success; others are a `server_error`:",
        _table(("code", "verdict"), ((f"`{c}`", f"`{v}`") for c, v in MINIMAX_CODES.items())),
        "## Messages of errors",
        "Regular expressions, in lower case, for providers that have no code for it:",
        _table(("message", "verdict", "where the status says", "documented by"), _phrases()),
        "## How streams end",
        ENDINGS,
        _table(("format", "events", "verdict", "documented by"), _endings()),
        "## By provider",
        *(part for name in PRESETS for part in _provider(name)),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _reasons() -> Iterable[Iterable[str]]:
    for reason in FINISH_REASONS.values():
        full, empty = (_of_reason(reason.name, content) for content in ("Hi", None))
        yield f"`{reason.name}`", reason.meaning.value, full, empty, _names(reason.providers)
    full, empty = (_of_reason("any other", content) for content in ("Hi", None))
    yield "any other", "complete", full, empty, "-"


def _of_reason(name: str, content: str | None) -> str:
    choice = {"index": 0, "message": {"content": content}, "finish_reason": name}
    return _verdict(_read(json.dumps({"choices": [choice]})))


def _read(body: str, shape: Shape = Shape.CHAT, status: int = 200) -> Verdict:
    return read_answer(HttpResponse(status, {}, body.encode(), 0.0), shape).verdict


def verdict_of_shape(shape: ErrorShape) -> Verdict:
    """Read the example of a form of errors."""
    return _read(shape.example, status=500 if shape.needs_status else 200)


def verdict_of_ending(ending: StreamEnding) -> Verdict:
    """Read the example of an ending."""
    assembler = StreamAssembler(shape_of(ending.format))
    for block in ending.blocks():
        assembler.feed(block.encode())
    return assembler.end()[0].verdict


def _shapes() -> Iterable[Iterable[str]]:
    for needs_status in (False, True):
        for shape in ERROR_SHAPES:
            if shape.needs_status == needs_status:
                verdict = _verdict(verdict_of_shape(shape))
                yield f"`{shape.example}`", verdict, _names(shape.providers)
        if not needs_status:
            yield "**with the status of an error**, here 500", "", ""


def _codes(codes: Iterable[Code]) -> Iterable[Iterable[str]]:
    for code in codes:
        yield f"`{code.name}`", f"`{code.verdict}`", _names(code.providers)


def _phrases() -> Iterable[Iterable[str]]:
    for phrase in PHRASES:
        pattern = phrase.pattern.pattern.replace("|", "\\|")
        on = ", ".join(f"`{verdict}`" for verdict in sorted(phrase.on))
        yield f"`{pattern}`", f"`{phrase.verdict}`", on, _names(phrase.providers)


def _endings() -> Iterable[Iterable[str]]:
    for ending in STREAM_ENDINGS:
        verdict = _verdict(verdict_of_ending(ending))
        yield f"`{ending.format}`", _events(ending), verdict, _names(ending.providers)


def _events(ending: StreamEnding) -> str:
    return "<br>".join(
        f"`{line}`" for block in ending.blocks() for line in block.split("\n") if line
    )


def _provider(name: str) -> Iterable[str]:
    reasons = (
        f"`{reason.name}` ({reason.meaning.value})"
        for reason in FINISH_REASONS.values()
        if name in reason.providers
    )
    codes = (
        f"`{code.name}` ({code.verdict})"
        for code in (*CODES, *BROAD_CODES)
        if name in code.providers
    )
    statuses = (f"{status} ({verdict_of_status(status)})" for status in STATUSES_OF[name])
    shapes = (f"`{shape.example}`" for shape in ERROR_SHAPES if name in shape.providers)
    endings = (
        f"`{each.format}`: `{(each.lead + each.example[-1]).splitlines()[-1]}` ({verdict_of_ending(each)})"
        for each in STREAM_ENDINGS
        if name in each.providers
    )
    yield f"### {name}"
    yield "\n".join(
        (
            f"- Finish reasons: {_listed(reasons)}",
            f"- Statuses of errors: {_listed(statuses)}",
            f"- Codes and types of errors: {_listed(codes)}",
            f"- Forms of errors: {_listed(shapes)}",
            f"- Streams end with: {_listed(endings)}",
            f"- Sources: {SOURCES[name]}",
        )
    )


def _listed(items: Iterable[str]) -> str:
    return ", ".join(items) or "those of the others"


def _names(providers: Iterable[str]) -> str:
    return ", ".join(providers) or "-"


def _verdict(verdict: Verdict) -> str:
    return f"`{verdict}`" + (", retried" if TREATMENTS[verdict].retry else "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
