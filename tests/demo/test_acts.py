import io

from rich.console import Console
from table_test import table_test

from stormbreak.cli.output import save_picture
from stormbreak.demo import Record, Result, Screen
from stormbreak.events import Returned, Sent
from stormbreak.types import Target, Verdict

TARGET = Target("p", "m")


def record(*attempts, speed=1.0):
    """A record of attempts given as (time, ok)."""
    made = Record(speed)
    made.on_event(Sent(100.0, 1, TARGET, 1))
    for at, ok in attempts:
        verdict = Verdict.OK if ok else Verdict.THROTTLED
        made.on_event(Returned(100.0 + at, 1, TARGET, 1, verdict, None, None, 0.1))
    return made


def test_storm_time_starts_with_the_first_attempt():
    made = record((0.5, True), (2.0, False), speed=10.0)

    assert made.returned == [(5.0, True), (20.0, False)]
    assert made.last_at == 20.0


@table_test(
    ("attempts", "expected"),
    [
        ([(10, True), (11, True)], 0.0),
        ([(10, False), (13, True), (14, True)], 3.0),
        ([(10, False), (11, True), (12, False), (16, False), (17, True)], 7.0),
        ([(10, False), (11, False)], None),
        ([(1, True)], None),
    ],
)
def test_recovery_is_the_start_of_the_first_successes_after_the_fault(attempts, expected):
    assert record(*attempts).recovery(10.0) == expected


def test_recovery_tolerates_one_failure_in_twenty():
    attempts = [(10 + n / 10, n != 5) for n in range(20)]

    assert record(*attempts).recovery(10.0) == 0.0


def test_the_strip_counts_attempts_per_slice():
    made = record((0.0, True), (4.9, False), (5.0, True), (10.0, True))

    assert made.strip(2, 10.0) == [(1, 1), (2, 0)]


def test_both_acts_fit_side_by_side_in_80_columns(tmp_path):
    console = Console(record=True, width=80, file=io.StringIO())
    screen = Screen(console)
    screen.open(spike=(5.0, 52.0), speed=13.0)
    screen.act(1, "one")
    screen.sleeps()
    for row in range(9):
        screen.lost(row, Verdict.THROTTLED)
    screen.many_lost()
    before = Result(answered=300, failed=200, record=record((1, True), (60, False)))
    after = Result(answered=500, failed=0, record=record((1, True), (60, True)))
    screen.compare(before, after, spike=(5.0, 52.0))
    screen.close(after, where="answers.jsonl")
    shown = console.export_text(clear=False)
    save_picture(console, tmp_path / "demo.svg", title="stormbreak demo")

    assert "500 of 500" in shown
    assert "row 37 would now sleep 2,178 years" in shown
    assert "never" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    picture = (tmp_path / "demo.svg").read_text()
    assert "@font-face" not in picture
    assert picture.count("http") == picture.count("http://www.w3.org") + picture.count(
        "https://www.textualize.io"
    )


def test_rejected_attempts_are_marked_with_x_without_colours():
    console = Console(record=True, width=80, file=io.StringIO(), color_system=None)
    before = Result(answered=1, failed=1, record=record((1, True), (60, False)))
    after = Result(answered=2, failed=0, record=record((1, True), (60, True)))
    Screen(console).compare(before, after, spike=(5.0, 52.0))
    lines = console.export_text().splitlines()

    assert next(line for line in lines if "article" in line).rstrip().endswith("x")
    assert "x: refused" in "".join(lines)
    assert "green" not in "".join(lines)
