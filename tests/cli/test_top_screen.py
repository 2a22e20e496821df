"""One frame of `top`: content, size, and escaping."""

import io
from dataclasses import replace

from rich.console import Console, Group
from table_test import table_test

from stormbreak.cli.top_screen import ASCII, Frame
from stormbreak.telemetry.state import (
    SECONDS,
    BatchSnapshot,
    CostSnapshot,
    Counts,
    Decision,
    State,
    TargetSnapshot,
)

HOSTILE = "[red]x[/]\x1b[31m\x1b]0;t\x07\r\n\u202e" + "名" * 200
TIMES = "\N{MULTIPLICATION SIGN}"
OK = (0,) * 30 + tuple(range(30))
NOT_OK = (0,) * 45 + (3,) * 15


def target(name="acme/large", **changes):
    given = {
        "target": name, "circuit": "half_open", "in_flight": 12, "limit": 64, "queued": 1_234, "cooldown": 4.2,
        "budget": 3.25, "verdicts": {"ok": 900, "throttled": 180, "timeout": 3}, "ok": OK, "not_ok": NOT_OK,
    }  # fmt: skip
    return TargetSnapshot(**given | changes)


def state(**changes):
    counts = Counts(calls=612, answered=600, attempts=800, retries=188, retries_refused=12)
    decisions = tuple(
        Decision(ago=ago, name="retry.scheduled", text=f"decision number {n}", times=n)
        for n, ago in enumerate((0.2, 3.0, 150.0), 1)
    )
    batch = BatchSnapshot(
        total=1_000, done=600, failed=12, left=388, rate=12.3, to_go=32.0, retries=190, stopping=False
    )  # fmt: skip
    given = {"pid": 4711, "watched": 75.0, "counts": counts, "targets": (target(),), "decisions": decisions, "batch": batch}  # fmt: skip
    return State(**given | changes)


def drawn(state, width=80, height=None, **options):
    frame = Frame(where="out.jsonl", width=width, height=height, **options)
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None)
    console.print(Group(*frame.lines(state)))
    return stream.getvalue().splitlines()


def test_a_frame_shows_the_batch_its_targets_and_decisions():
    assert [line.rstrip() for line in drawn(state())] == [
        " stormbreak top  out.jsonl                       process 4711, watched for 1:15",
        "",
        " rows ████████████░░░░░░░░  61 %  612 of 1.0 k  12.3 rows/s  0:32 to go",
        " done 600        failed 12       left 388",
        " calls 612       answered 600    attempts 800    retries 190     refused 12",
        " rejected 0      hedges 0        fallbacks 0     openings 0      cooldowns 0",
        "",
        " acme/large                                            half-open cooldown 4.2 s",
        "   in flight ████░░░░░░░░░░░░░░░░ 12 of 64   queue 1,234   retry budget 3.2",
        "   ok       27.0/s ·▁▁▁▂▂▂▂▃▃▃▃▄▄▄▅▅▅▅▆▆▆▆▇▇▇▇███",
        "   not ok    3.0/s ···············▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁  throttled 180, timeout 3",
        "",
        " ago   decisions, equal ones counted",
        "   now        decision number 1",
        f"   3 s {TIMES}2     decision number 2",
        f" 2 min {TIMES}3     decision number 3",
    ]


@table_test(
    ("sharing", "words"),
    [(1.0, "fleet of 20  half-open"), (0.0, "fleet: the store does not answer  half-open"), (None, "large        ")],
)  # fmt: skip
def test_a_target_of_a_fleet_shows_its_members_or_a_silent_store(sharing, words):
    shown = drawn(state(targets=(target(sharing=sharing, members=20),)))
    assert words in next(line for line in shown if "acme/large" in line)


def test_a_frame_shows_the_cost():
    for cost, text in (
        (CostSnapshot(min_usd=1.5, max_usd=1.5), "cost 1.50 USD"),
        (CostSnapshot(min_usd=0.001, max_usd=2), "cost <0.01 to 2.00 USD"),
        (
            CostSnapshot(min_usd=1, max_usd=2, unpriced=3),
            "cost 1.00 to 2.00 USD, and 3 attempts without a known price",
        ),
        (CostSnapshot(min_usd=1, max_usd=2, unbounded=3), "cost 1.00 to 2.00 USD or more"),
        (CostSnapshot(min_usd=-1e300, max_usd=1e300), "cost -1e+300 to 1e+300 USD"),
        (CostSnapshot(min_usd=0, max_usd=0, unpriced=3), "cost 3 attempts without a known price"),
    ):
        assert f" {text}" in [line.rstrip() for line in drawn(state(cost=cost))]


def test_a_frame_works_without_batch_and_targets():
    lines = "\n".join(drawn(state(batch=None, targets=(), decisions=())))
    assert "rows" not in lines
    assert "retries 188" in lines
    assert "no request sent yet" in lines


def test_a_wide_frame_shows_the_whole_minute():
    lines = drawn(state(), width=140)
    (curve,) = [line for line in lines if line.startswith("   ok")]
    assert curve.count("·") + sum(curve.count(level) for level in "▁▂▃▄▅▆▇█") == SECONDS


def test_a_frame_can_be_drawn_in_ascii():
    text = "\n".join(drawn(state(), glyphs=ASCII))
    assert text.isascii()
    assert "####" in text
    assert "x3" in text


MANY = tuple(
    target(f"acme/{n:02}", circuit="open" if n == 40 else "closed", cooldown=0.0) for n in range(50)
)


def test_a_frame_fits_every_terminal_size():
    for width in (20, 40, 60, 80, 100, 140, 300):
        for height in (3, 8, 12, 24, 50):
            for targets in ((), MANY[:1], MANY[:3], MANY):
                lines = drawn(state(targets=targets, more_targets=7), width, height, live=True)
                assert len(lines) == height
                assert max(len(line) for line in lines) <= min(width, 140)
                assert lines[-1].rstrip() == " q quits"
                assert lines[0].startswith(" stormbreak")


def test_a_target_with_an_open_circuit_is_shown_among_many():
    lines = drawn(state(targets=MANY), 100, 24, live=True)
    text = "\n".join(lines)
    assert "acme/40" in text
    assert "open" in next(line for line in lines if "acme/40" in line)
    assert " more" in text
    assert "decision number 1" in text


def test_a_frame_shows_how_long_no_response_came():
    assert drawn(state(), silent=7.0)[0].rstrip().endswith("no answer for 7 s")


def test_a_frame_marks_a_stopping_batch():
    batch = BatchSnapshot(total=0, done=0, failed=0, left=0, rate=0.0, to_go=None, retries=0, stopping=True)  # fmt: skip
    assert "stopping" in "\n".join(drawn(state(batch=batch)))


def test_control_characters_and_markup_in_names_are_escaped():
    bad = target(HOSTILE, circuit=HOSTILE, verdicts={HOSTILE: 1})
    decision = Decision(ago=1.0, name=HOSTILE, text=HOSTILE)
    for height in (None, 10, 24):
        lines = drawn(state(targets=(bad,) * 3, decisions=(decision,)), 100, height)
        text = "".join(lines)
        assert text.isprintable()
        assert "[red]x[/]" in text
        assert not any("\u202e" in line for line in lines)


def test_a_frame_accepts_impossible_numbers():
    """Any program may answer at a port."""
    odd = target(
        in_flight=-5, limit=-1, queued=10**30, cooldown=-1.0, ok=(), not_ok=(10**40,), budget=1e300
    )
    batch = BatchSnapshot(total=-1, done=-5, failed=10**30, left=-1, rate=-1e300, to_go=1e300, retries=-1, stopping=False)  # fmt: skip
    counts = Counts(calls=-(10**30))
    for height in (None, 12, 24):
        assert drawn(
            state(targets=(odd,) * 5, batch=batch, counts=counts, watched=1e300), 80, height
        )


def test_a_frame_has_colours_unless_no_color_is_set():
    def shown(**more):
        environ = {"TERM": "xterm-256color", **more}
        stream = io.StringIO()
        console = Console(file=stream, width=80, force_terminal=True, color_system="truecolor", _environ=environ)  # fmt: skip
        console.print(Group(*Frame(where="x", width=80).lines(state())))
        return stream.getvalue()

    assert "33m" in shown()  # yellow
    assert "33m" not in shown(NO_COLOR="1")


def test_a_frame_names_the_reason_of_a_slow_batch_and_target():
    why = "circuit open, next probe in 3 s"
    batch = replace(state().batch, slow=why)
    lines = drawn(state(batch=batch, targets=(target(slow=why),)))

    assert f" slow {why}" in [line.rstrip() for line in lines]
    assert f"   slow      {why}" in [line.rstrip() for line in lines]


def test_a_target_on_one_line_shows_its_reason_behind_the_name():
    targets = tuple(target(f"acme/{number}", slow="429s: 3.1 requests/s") for number in range(9))
    lines = drawn(state(targets=targets), height=24)

    assert sum(line.rstrip().endswith("  429s: 3.1 requests/s") for line in lines) >= 5


def test_control_characters_in_a_reason_are_removed():
    lines = "".join(drawn(state(targets=(target(slow=HOSTILE),))))

    assert "\x1b" not in lines
