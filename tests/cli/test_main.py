"""`stormbreak` itself: its map, and what it says to a command that there is not."""

import pytest

from stormbreak.cli.main import main


def test_the_help_names_the_commands_what_to_import_and_the_exit_codes(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "batch      Push a file of prompts" in said
    assert "from stormbreak import AsyncClient" in said
    assert "130 interrupted" in said
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize(
    ("typed", "meant"), [(["bacth"], "batch"), (["batch", "runn", "in.jsonl"], "run")]
)
def test_a_misspelt_command_is_told_the_nearest(typed, meant, capsys):
    assert main(typed) == 2
    assert f"Did you mean {meant!r}? (see stormbreak" in capsys.readouterr().err
