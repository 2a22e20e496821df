"""The verdict of a storm as text."""

import sys

from stormbreak.cli.storm.output import sentence
from stormbreak.provider.scenario_file import parse
from stormbreak.testing import storm

SMALL = """
duration = 40
[provider]
slots = 5
service = 1
[load]
rate = 3
deadline = 10
timeout = 4
"""


def test_a_verdict_is_one_line_and_is_wrapped_on_a_terminal(monkeypatch):
    scenario, results = parse(SMALL), storm(SMALL)
    line = sentence(scenario, results)
    assert "\n" not in line
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    folded = sentence(scenario, results)
    assert folded.replace("\n", " ") == line
    assert max(map(len, folded.splitlines())) <= 30
