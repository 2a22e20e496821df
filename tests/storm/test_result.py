"""The result of a simulation, written and read."""

import json
from dataclasses import fields

import pytest
from table_test import table_test

from stormbreak.cli.main import main
from stormbreak.core.presets import INTERACTIVE
from stormbreak.errors import ConfigurationError
from stormbreak.provider.scenario_file import parse
from stormbreak.storm import simulate
from stormbreak.storm.result import NO_SERIES, Series, read, when

SMALL = """
name = "small"
duration = 40
[provider]
slots = 5
service = 1
[load]
rate = 4
trigger_at = 5
trigger_until = 8
"""


@pytest.fixture
def printed(tmp_path, capsys):
    """Prints a document into a file, and returns it."""

    def run(*flags):
        scenario, path = tmp_path / "small.toml", tmp_path / "small.json"
        scenario.write_text(SMALL)
        assert main(["storm", "run", str(scenario), "--json", *flags]) == 0
        path.write_text(capsys.readouterr().out)
        return path

    return run


def test_a_document_is_read_as_it_was_simulated(printed):
    document, results = read(printed("--series", "--compare", "none", "--seeds", "2"))
    simulated = simulate(parse(SMALL), INTERACTIVE, seed=1)

    assert (document.scenario, document.policy, document.duration) == ("small", "interactive", 40.0)
    assert (document.trigger_at, document.trigger_until) == (5.0, 8.0)
    runs = [(one.scenario, one.policy, one.seed) for one in results]
    assert runs[1:3] == [("small", "interactive", 1), ("small", "none", 0)]
    assert results[1].measures.plain() == simulated.measures.plain()
    assert results[1].series.plain() == simulated.series.plain()


def test_the_series_is_printed_only_on_request(printed):
    path = printed()

    assert "series" not in json.loads(path.read_text())["runs"][0]
    assert read(path)[1][0].series == NO_SERIES


def test_a_series_has_its_values_by_name():
    result = simulate(parse(SMALL), INTERACTIVE, seed=1)
    values_by_name = result.plain(series=True)["series"]

    assert list(values_by_name) == [field.name for field in fields(Series)]
    assert {len(values) for values in values_by_name.values()} == {len(result.series.calls)}
    assert json.loads(json.dumps(values_by_name)) == values_by_name


def test_when_gives_the_duration_and_the_trigger():
    assert when(parse(SMALL)) == {"duration": 40.0, "trigger_at": 5.0, "trigger_until": 8.0}
    assert when(parse("duration = 7")) == {
        "duration": 7.0,
        "trigger_at": None,
        "trigger_until": None,
    }


@table_test(
    ("text", "message"),
    [
        ("", "not output of `storm run --json`"),
        ("[]", "not output of `storm run --json`: Expected `object`, got `array`"),
        ('{"scenario": "x"}', "Object missing required field `policy`"),
        (b"\xff", "not output of `storm run --json`"),
        (
            '{"scenario": "", "policy": "", "duration": 1, "trigger_at": null, "trigger_until": null,'
            ' "runs": [{"series": ' + "[" * 100_000,
            "not output of `storm run --json`",
        ),
        ("[" * 100_000, "not output of `storm run --json`"),
    ],
)
def test_an_invalid_document_is_rejected(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(ConfigurationError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["goodput", "policy", "seed"])
def test_a_run_without_a_required_field_is_rejected(printed, name):
    path = printed()
    document = json.loads(path.read_text())
    del document["runs"][0][name]
    path.write_text(json.dumps(document))

    with pytest.raises(ConfigurationError, match="not output of `storm run --json`"):
        read(path)


def test_an_unreadable_file_is_rejected(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.json: cannot be read: No such file"):
        read(tmp_path / "none.json")
