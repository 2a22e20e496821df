"""docs/provider.md is correct: its examples are valid, and its tables are complete."""

import re
from pathlib import Path

from table_test import table_test

from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.scenario import Dialect
from stormbreak.provider.scenario_file import builtin_names, load_answers, parse

TEXT = (Path(__file__).parents[2] / "docs" / "provider.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@table_test("block", blocks("toml"))
def test_each_scenario_in_the_page_is_valid(block):
    scenario = parse(block)
    assert scenario.load
    assert scenario.background_traffic


def test_the_answers_in_the_page_are_valid(tmp_path):
    path = tmp_path / "answers.toml"
    (shown,) = blocks("toml answers")
    path.write_text(shown)
    assert len(load_answers(path)) == 4


def test_the_page_names_every_fault_dialect_scenario_and_statistic(stormbreak_provider):
    words = set(re.findall(r"`([^`\n]+)`", TEXT))
    assert {kind.value for kind in Kind} <= words
    assert {dialect.value for dialect in Dialect} <= words
    assert set(builtin_names()) <= words
    stats = stormbreak_provider("calm").stats()
    assert set(stats) - {"scenario", "seed", "speed"} <= words
    assert set(stats["clients"]) <= words
