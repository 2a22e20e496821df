"""docs/background/answers.md matches the tables, and the tables match the readers."""

import json

from streamed import event as in_event
from table_test import table_test

import answers_page
from answer_examples import ERROR_SHAPES, SOURCES, STATUSES_OF, STREAM_ENDINGS
from stormbreak.llm.endpoints import Shape, shape_of
from stormbreak.llm.error_fields import parse_error
from stormbreak.llm.error_tables import BROAD, BROAD_CODES, CODES, NAMED, PHRASES
from stormbreak.llm.finish_reasons import FINISH_REASONS, FinishMeaning, Reason, reason_of
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.llm.providers import PRESETS
from stormbreak.llm.response_verdict import read_answer
from stormbreak.llm.stream_reader import FORMATS, StreamScanner
from stormbreak.types import TREATMENTS, Verdict


def test_the_page_is_up_to_date():
    """Remake it with `python bench/answers_page.py`."""
    assert answers_page.PAGE.read_text(encoding="utf-8") == answers_page.page()


@table_test("preset", PRESETS)
def test_each_preset_is_in_every_table(preset):
    tables = (FINISH_REASONS.values(), ERROR_SHAPES, STREAM_ENDINGS)
    assert all(any(preset in row.providers for row in table) for table in tables)
    assert preset in STATUSES_OF
    assert preset in SOURCES


def test_every_documented_provider_has_a_source():
    rows = (
        *FINISH_REASONS.values(),
        *CODES,
        *BROAD_CODES,
        *PHRASES,
        *ERROR_SHAPES,
        *STREAM_ENDINGS,
    )
    assert {name for row in rows for name in row.providers} <= SOURCES.keys()


def test_every_code_is_in_one_table_once():
    assert len(NAMED) == len(CODES)
    assert len(BROAD) == len(BROAD_CODES)
    assert not NAMED.keys() & BROAD.keys()


@table_test("reason", FINISH_REASONS.values())
def test_a_finish_reason_has_the_verdict_of_the_table(reason: Reason):
    assert reason_of(reason.name.upper()) is reason
    bodies = [
        json.dumps({"choices": [{"message": {"content": content}, "finish_reason": reason.name}]})
        for content in ("Hi", None)
    ]
    full, empty = (
        read_answer(HttpResponse(200, {}, body.encode(), 0.0), Shape.CHAT) for body in bodies
    )
    never = reason.meaning in {FinishMeaning.ABORTED, FinishMeaning.ERROR}
    assert full.verdict is (reason.verdict if never else Verdict.OK)
    assert empty.verdict is reason.verdict
    if reason.meaning is FinishMeaning.FILTERED:
        assert not TREATMENTS[empty.verdict].retry


@table_test("shape", ERROR_SHAPES)
def test_every_error_shape_of_the_table_is_recognized(shape):
    body = shape.example.encode()
    assert parse_error(body, is_error=shape.needs_status) is not None
    assert answers_page.verdict_of_shape(shape) is not Verdict.OK
    if shape.needs_status:
        assert parse_error(body, is_error=False) is None
    elif shape.example.startswith("{"):
        scanner = StreamScanner(Shape.CHAT)
        scanner.feed(in_event(json.loads(body)))
        assert scanner.end()[0].verdict is answers_page.verdict_of_shape(shape)


def test_every_format_has_its_endings_in_the_table():
    examples = {shape: [] for shape in FORMATS}
    for ending in STREAM_ENDINGS:
        examples[shape_of(ending.format)].append(ending.example[-1])
    for shape, format_ in FORMATS.items():
        assert all(any(last in each for each in examples[shape]) for last in format_.last_events)


@table_test("ending", STREAM_ENDINGS)
def test_the_scanner_gives_each_ending_the_verdict_of_the_table(ending):
    scanner = StreamScanner(shape_of(ending.format))
    for block in ending.blocks():
        scanner.feed(block.encode())
    assert scanner.end()[0].verdict is answers_page.verdict_of_ending(ending)
