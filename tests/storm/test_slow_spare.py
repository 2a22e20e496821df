"""A target that gets slower with free slots: sending less does not help, and the limit stops binding."""

from pathlib import Path

from table_test import table_test

from stormbreak.core.presets import INTERACTIVE
from stormbreak.provider.scenario_file import load, parse
from stormbreak.storm import simulate

SLOWER = Path(__file__).parents[2] / "docs" / "background" / "theory" / "slower.toml"


@table_test("first_output", [False, True])
def test_a_slower_target_answers_all_calls(first_output):
    result = simulate(load(str(SLOWER)), INTERACTIVE, seed=1, first_output=first_output)

    assert result.measures.goodput >= 0.99
    assert result.measures.shed == 0
    assert not any(result.series.queued[120:])  # a minute after the slowdown


OVERLOAD = """
duration = 400

[provider]
slots = 33
service = 2.22
variation = 0.88
queue = 198

[load]
rate = RATE
deadline = 20
timeout = 15
processes = 4
"""


CALM_FIRST = OVERLOAD.replace("RATE", "8\nsteps = [{ at = 100, rate = 20.3 }]")
FROM_COLD = OVERLOAD.replace("RATE", "20.3")


@table_test("seed", [1, 2])
def test_a_queue_filled_by_several_processes_is_not_taken_for_a_slower_target(seed):
    """One of four processes that sends less shortens no answers; all of them do. A bug: goodput 85 % instead of 97."""
    result = simulate(parse(CALM_FIRST, source="overload"), INTERACTIVE, seed=seed)

    assert result.measures.goodput >= 0.94


def test_an_overload_of_minutes_does_not_become_usual():
    """A bug: after two minutes the queueing time was usual, and the limit rose until most answers were late: 90 % instead of 98."""
    result = simulate(parse(FROM_COLD, source="overload"), INTERACTIVE, seed=1)

    assert result.measures.goodput >= 0.96
