import io
from decimal import Decimal
from types import SimpleNamespace

import pytest
from batches import a_snapshot
from rich.console import Console
from rich.live import Live
from table_test import table_test

from stormbreak.batch.running import progress_panel as panel_module
from stormbreak.batch.running.progress_panel import Panel, panel
from stormbreak.cli.batch.progress import Lines, progress_on
from stormbreak.cost.accounts import Cost, SpendLimit

SNAPSHOT = {
    "total": 10_000_000, "done": 6_123_456, "failed": 1_234, "in_flight": 250, "width": 256, "waiting": 1_024,
    "retries": 123_456, "circuit": "half-open", "input_tokens": 1_234_567_890, "output_tokens": 9_876_543,
}  # fmt: skip


def drawn(width, **changes):
    stream = io.StringIO()
    snapshot = a_snapshot(**SNAPSHOT | changes)
    Console(file=stream, width=width, color_system=None).print(
        panel(snapshot, 1234.5, 7384.0, width)
    )
    return stream.getvalue().splitlines()


@table_test("width", [80, 100, 120, 300])
def test_the_panel_aligns_its_columns_and_fits_the_width(width):
    lines = drawn(width)
    assert len(lines) == 4
    assert max(len(line.rstrip()) for line in lines) <= min(width, 100)
    starts = [[line.index(name) for line, name in zip(lines[1:], names, strict=True)]
              for names in (("done", "failed", "left"), ("rows/s", "in flight", "waiting"),
                            ("retries", "circuit", "tokens"))]  # fmt: skip
    assert all(len(set(column)) == 1 for column in starts)
    text = "\n".join(lines)
    for value in ("61 %", "2:03:04 to go", "6,123,456", "1,234", "3,875,310", "1,234.5", "250 of 256",
                  "1,024", "123,456", "half-open", "1.2 G in, 9.9 M out"):  # fmt: skip
        assert value in text


SLOW = "1,000 rows to be sent again after server error (500), first in 59 s"


def test_the_panel_names_the_reason_of_a_slow_run():
    lines = drawn(80, slow=SLOW)
    assert lines[-1].rstrip() == f"slow     {SLOW}"
    assert len(lines) == len(drawn(80)) + 1


def test_a_stopping_panel_counts_the_answers_still_in_flight():
    for interrupted, how in ((True, "again"), (False, "twice")):
        assert drawn(100, stopping=True, interrupted=interrupted)[-1].rstrip() == (
            f"stopping: 250 answers are still to come; Ctrl-C {how} stops at once"
        )
    assert len(drawn(100, stopping=True, in_flight=0)) == 4


@table_test("width", [80, 100])
def test_the_panel_shows_the_cost_on_its_own_line(width):
    cost = Cost(
        min_usd=Decimal("1234.5"), max_usd=Decimal("2345.6"), priced=9, unpriced=0, unbounded=0
    )
    limit = SpendLimit(Decimal(5_000), Decimal(2000))
    lines = drawn(width, cost=cost, cost_limit=limit)
    assert lines[:-1] == drawn(width)
    assert lines[-1].rstrip() == (
        "cost     1,234.50 to 2,345.60 USD; 40 % of the 5,000.00 USD that it may cost"
    )


def test_the_panel_cuts_a_line_that_is_too_long():
    cost = Cost(
        min_usd=Decimal(10**9), max_usd=Decimal(10**10), priced=1, unpriced=999, unbounded=1
    )
    lines = drawn(80, cost=cost)
    assert len(lines) == 5
    assert lines[-1].rstrip().endswith("…")
    assert len(lines[-1].rstrip()) <= 78


def test_a_finished_panel_shows_no_remaining_time():
    text = "\n".join(drawn(100, done=9_998_766))
    assert "100 %" in text
    assert "to go" not in text


@pytest.fixture
def lines(monkeypatch, clock):
    """Return a function that gives the progress lines for a snapshot at a time."""
    stream = io.StringIO()
    shown = Lines(stream)

    def tick(at, **changes):
        clock[0] = at
        before = stream.tell()
        shown.tick(SimpleNamespace(snapshot=a_snapshot(at, **SNAPSHOT | changes)))
        return stream.getvalue()[before:]

    return tick


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(panel_module.time, "monotonic", lambda: now[0])
    return now


def test_progress_lines_report_the_reading_of_a_long_input(clock):
    stream = io.StringIO()
    shown = Lines(stream)
    for clock[0], rows in ((0.9, 80_000), (1.1, 123_456), (2.0, 200_000), (6.2, 1_234_567)):
        shown.on_read(rows)
    assert stream.getvalue() == "reading INPUT: 123,456 rows\nreading INPUT: 1,234,567 rows\n"


def test_the_panel_reports_the_reading_after_a_second(clock):
    stream = io.StringIO()
    with Live(console=Console(file=stream, width=80, force_terminal=True)) as live:
        shown = Panel(live.update)
        clock[0] = 0.9
        shown.on_read(80_000)
        live.refresh()
        assert "reading" not in stream.getvalue()
        clock[0] = 1.1
        shown.on_read(123_456)
        live.refresh()
        assert "reading INPUT: 123,456 rows" in stream.getvalue()


def test_progress_prints_a_line_every_five_seconds_and_at_the_end(lines):
    assert lines(0.25) == lines(4.9) == ""
    text = lines(5.1, done=6_124_456)
    assert text.startswith("6,124,456 done, 1,234 failed, 3,874,310 left, ")
    assert text.endswith(" to go\n")
    assert lines(9.0) == ""
    last = lines(9.1, done=9_998_766, in_flight=0)
    assert "9,998,766 done, 1,234 failed, 0 left" in last
    assert "to go" not in last
    assert lines(9.2, done=9_998_766, in_flight=0) == ""


def test_a_progress_line_shows_the_cost(lines):
    cost = Cost(min_usd=Decimal(1), max_usd=Decimal(2), priced=1, unpriced=0, unbounded=0)
    assert lines(5.1, cost=cost).endswith(" circuit half-open, cost 1.00 to 2.00 USD\n")


def test_a_signal_prints_one_progress_line_at_once(lines):
    assert lines(1.0, stopping=True).startswith("stopping: 250 answers are still to come")
    assert lines(1.2, stopping=True) == ""


def test_the_rate_ignores_old_samples(lines):
    lines(0.0, done=0)
    lines(100.0, done=0)
    assert "100.0 rows/s" in lines(110.0, done=1_000)


def test_progress_is_silent_when_quiet_and_lines_without_a_terminal():
    stream = io.StringIO()
    with progress_on(stream, quiet=True) as shown:
        shown.on_read(10**6)
        shown.tick(SimpleNamespace(snapshot=a_snapshot(5.0, **SNAPSHOT)))
    with progress_on(stream, quiet=False) as shown:
        assert isinstance(shown, Lines)
    assert stream.getvalue() == ""


def test_a_progress_line_names_the_reason_of_a_slow_run(lines):
    assert lines(5.1, slow=SLOW).endswith(f"; {SLOW}\n")
