"""The plot of `storm run`, mark by mark."""

from dataclasses import replace

from measured import MEASURES
from table_test import table_test

from stormbreak.cli.storm.plot import picture
from stormbreak.provider.scenario import Load, Provider, Scenario
from stormbreak.storm.result import NO_SERIES, Result

STORM = Scenario(
    name="flat",
    duration=70.0,
    provider=Provider(),
    load=Load(rate=10.0, trigger_at=20.0, trigger_until=30.0),
)


def result(*, length=70, answers=10, attempts=10):
    """Ten calls a second, ten possible answers; in the trigger no answers and more attempts."""
    inside = range(20, 30)
    drawn_series = replace(
        NO_SERIES,
        calls=(10,) * length,
        ideal=(10.0,) * length,
        answers=tuple(0 if second in inside else answers for second in range(length)),
        attempts=tuple(40 if second in inside else attempts for second in range(length)),
    )
    return Result(scenario="flat", policy="mine", seed=0, measures=MEASURES, series=drawn_series)


DRAWN = """\
                answers per second: o in time, - what was possible
  ┌────────────────────────────────────────────────────────────────────────────┐
10┤oooooooo------------------oooooooooooooooooooooooooooooooooooooooooooooooooo│
  │       o │               o│                                                 │
  │       o │               o│                                                 │
  │       o │               o│                                                 │
  │        o│               o│                                                 │
 5┤        o│               o│                                                 │
  │        o│              o │                                                 │
  │        o│              o │                                                 │
  │        o│              o │                                                 │
 0┤         oooooooooooooooo │                                                 │
  └─────────┬────────────────┬────────────────┬────────────────┬───────────────┘
            20               30               40               50
                       sent per second: x attempts, . calls
  ┌────────────────────────────────────────────────────────────────────────────┐
40┤         xxxxxxxxxxxxxxxx │                                                 │
  │        x│              x │                                                 │
30┤        x│               x│                                                 │
20┤       x │               x│                                                 │
10┤............................................................................│
  │         │                │                                                 │
 0┤         │                │                                                 │
  └─────────┬────────────────┬────────────────┬────────────────┬───────────────┘
            20               30               40               50
         mine: seconds, of 70; the trigger between the lines, 20 to 30"""


def test_every_series_has_its_mark_and_lines_bound_the_trigger():
    assert picture(STORM, [result()], width=80) == DRAWN


def test_the_same_runs_give_the_same_text():
    assert picture(STORM, [result()], width=80) == picture(STORM, [result()], width=80)


@table_test("width", [20, 40, 60, 80, 133, 200])
def test_the_plot_fills_the_width(width):
    drawn = picture(STORM, [result()], width=width)

    assert max(map(len, drawn.splitlines())) == max(40, width)


def test_colour_is_optional_and_leaves_the_background():
    coloured = picture(STORM, [result()], width=80, colour=True)

    assert "\x1b" not in picture(STORM, [result()], width=80)
    assert "\x1b[38;" in coloured
    assert "\x1b[48;" not in coloured


def test_a_long_simulation_is_shown_around_its_trigger():
    long = replace(STORM, duration=2000.0)
    caption = picture(long, [result(length=2000)], width=80).splitlines()[-1]
    assert caption.strip() == "mine: seconds, of 2,000; the trigger between the lines, 20 to 30"

    calm = replace(long, load=Load(rate=10.0))
    caption = picture(calm, [result(length=2000)], width=80).splitlines()[-1]
    assert caption.strip() == "mine: seconds, of 2,000; means of 29 s"


def test_the_mean_of_several_seeds_is_drawn():
    """The mean of ten and zero is five; a shorter run adds nothing after its end."""
    both = [result(), result(length=60, answers=0)]
    lines = picture(STORM, both, width=80).splitlines()

    five = next(line for line in lines if line.lstrip().startswith("5┤"))
    assert "oooooooo" in five


@table_test("length", [1, 2, 5])
def test_a_very_short_run_is_drawn(length):
    drawn_series = replace(NO_SERIES, calls=(0,) * length, attempts=(0,) * length)
    drawn_series = replace(drawn_series, ideal=(0.0,) * length, answers=(0,) * length)
    drawn = picture(STORM, [replace(result(), series=drawn_series)], width=80)

    assert f"seconds, of {length}" in drawn
