"""Tables of `stormbreak cost` at several terminal widths: numbers stay whole, long texts wrap."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout, suppress
from unittest.mock import patch

import pytest
from table_test import table_test

from stormbreak.cli.main import main

pytestmark = pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no terminals here")

ARTICLE = ["--prices", "article-2025"]
MOVE = [*ARTICLE, "--current", "openai/gpt-4.1", "--candidate", "holysheep/gpt-4.1"]
BOLD = re.compile(r"\x1b\[[0-9;]*m")
VOLUMES = ["cost", "compare", *ARTICLE, "--models", "gpt-4.1", "--tokens", "1M,2B"]


def in_terminal(width, *argv, kind="xterm"):
    """The plain lines that the command writes to a terminal of this width."""
    main_end, end = os.openpty()
    env = {"COLUMNS": f"{width}", "NO_COLOR": "1", "TERM": kind}
    with ThreadPoolExecutor(1) as reader:
        written = reader.submit(read_to_the_end, main_end)
        with (
            os.fdopen(end, "w", encoding="utf-8") as terminal,
            patch.dict(os.environ, env),
            redirect_stdout(terminal),
        ):
            main(list(argv))
    os.close(main_end)
    return BOLD.sub("", written.result().decode()).splitlines()


def read_to_the_end(terminal):
    output = b""
    with suppress(OSError):  # the terminal was closed
        while piece := os.read(terminal, 65_536):
            output += piece
    return output


@table_test("kind", ["xterm", "dumb"])
@table_test("width", [200, 80, 40])
def test_numbers_are_never_wrapped(width, kind):
    out = "\n".join(in_terminal(width, "cost", "roi", *MOVE, "--tokens", "2B", kind=kind))
    for whole in ("120,000.00", "1,248,000.00", "62,300.0 %"):
        assert whole in out


def test_column_titles_stay_on_one_line_in_a_wide_terminal():
    titles = "tokens model provider price by USD a month saves a year savings latency claimed"
    assert " ".join(in_terminal(96, *VOLUMES)[0].split()) == titles


def test_column_titles_wrap_first():
    lines = in_terminal(90, *VOLUMES)
    assert [line.split() for line in lines[:2]] == [
        ["USD", "a", "latency"],
        ["tokens", "model", "provider", "price", "by", "month", "saves", "a", "year", "savings", "claimed"],
    ]  # fmt: skip
    assert any("article-2025" in line for line in lines)


def test_column_titles_wrap_only_if_needed():
    lines = in_terminal(100, "cost", "roi", *MOVE, "--tokens", "1M")
    assert lines[2].startswith("──")


def test_the_longest_text_wraps_only_as_far_as_needed():
    lines = in_terminal(100, "cost", "roi", *MOVE, "--tokens", "2B")
    assert 98 <= max(map(len, lines[:12])) <= 100
    assert "current at its  " in lines[4]
    assert lines[5].strip() == "list price"


def test_an_empty_table_is_omitted_and_others_are_separated(tmp_path):
    rows = tmp_path / "in.jsonl"
    rows.write_text('{"prompt": "hi"}\n')
    lines = in_terminal(
        120, "batch", "estimate", str(rows), "--provider", "openai", "--model", "gpt-4.1"
    )
    (gap,) = [place for place, line in enumerate(lines) if not line]
    assert lines[gap + 1].split() == ["at", "this", "limit", "seconds", "at", "least"]
