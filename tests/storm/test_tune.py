"""`stormbreak storm tune`: its findings, output and file changes."""

from dataclasses import replace

import pytest
from table_test import table_test

from stormbreak.cli.main import main
from stormbreak.cli.storm.tune import merged, sentence
from stormbreak.config import load_policy
from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.policy import Policy
from stormbreak.core.presets import INTERACTIVE
from stormbreak.provider.scenario import Load, Provider, Scenario
from stormbreak.provider.scenario_file import dump
from stormbreak.storm import tune as tune_module
from stormbreak.storm.policies import NamedPolicy
from stormbreak.storm.random_storms import RandomStorm
from stormbreak.storm.simulation import simulate
from stormbreak.storm.tune import VALUES, Difference, Tuned, tune

# one at a time at a provider with 20 slots
NARROW = replace(INTERACTIVE, limit=FixedLimit(max_in_flight=1))
WIDE = Scenario(
    name="wide",
    duration=12.0,
    provider=Provider(slots=20, service=1.0, variation=0.2),
    load=Load(rate=8.0, timeout=5.0, deadline=6.0),
)


@pytest.fixture
def small(monkeypatch):
    """Quick random storms; each has its own calls."""

    def draw(number, *, seed):
        provider = replace(WIDE.provider, service=1.0 + number / 100)
        return RandomStorm(number=number, family="small", scenario=replace(WIDE, provider=provider))

    monkeypatch.setattr(tune_module, "draw", draw)
    monkeypatch.setattr(
        tune_module, "VALUES", {"limit": VALUES["limit"][:2], "patience": (1.0, 30.0)}
    )


def test_tune_finds_a_limit_that_is_too_narrow(small):
    found = tune(NARROW, storms=4)
    assert isinstance(found.changes["limit"], AutomaticLimit)
    assert found.gains
    (goodput,) = found.goodput.values()
    assert goodput.before < 30
    assert goodput.after > 95
    assert goodput.change == pytest.approx(goodput.after - goodput.before)
    assert found == tune(NARROW, storms=4)
    assert (found.searched, found.judged) == (4, 4)


def test_tune_keeps_a_good_policy(small):
    assert not tune(INTERACTIVE, storms=4).gains


def test_the_winner_is_judged_in_storms_that_the_search_has_not_played(small, monkeypatch):
    played = []
    play = tune_module._Arena.play

    def watched(self, policies, numbers):
        played.append(set(numbers))
        return play(self, policies, numbers)

    monkeypatch.setattr(tune_module._Arena, "play", watched)
    tune(NARROW, storms=4)
    *searches, judges = played
    assert judges == {4, 5, 6, 7}
    assert not judges & set().union(*searches)


def test_own_times_of_a_policy_count_if_they_are_shorter():
    def waits(patience, *, own_times):
        policy = replace(NARROW, patience=patience)
        named = NamedPolicy(name="x", policy=policy, own_times=own_times)
        return simulate(WIDE, named, seed=1).measures.added_wait_p99

    assert waits(1.0, own_times=True) < 1.5
    assert waits(1.0, own_times=False) > 3.0
    assert waits(100.0, own_times=True) == waits(100.0, own_times=False)


FILE = '# ours\npreset = "interactive"\npatience = 1.0  # short\n[retry]\nmax_attempts = 3\n[limit]\nkind = "fixed"\nmax_in_flight = 1\n'


@table_test(
    "changes",
    [
        {"patience": 30.0, "limit": AutomaticLimit()},
        {"hedge": HedgePolicy(percentile=0.9), "deadline": 10.0},
        {"hedge": None},
        {"limit": FixedLimit(max_in_flight=8)},
    ],
)
def test_changes_go_into_the_file_and_the_rest_stays(tmp_path, changes):
    path = tmp_path / "policy.toml"
    for text in (FILE, "", 'preset = "interactive"', "[retry]\nmax_attempts = 3\n"):
        path.write_text(text)
        before = load_policy(path)
        path.write_text(merged(text, changes))
        assert load_policy(path) == replace(before, **changes)
    assert merged(FILE, changes).startswith('# ours\npreset = "interactive"\n')
    assert "[retry]\nmax_attempts = 3\n" in merged(FILE, changes)


def test_the_command_prints_gain_and_cost_and_writes_the_file(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "policy.toml"
    path.write_text(FILE)
    (tmp_path / "wide.toml").write_text(dump(WIDE))
    few = ["storm", "tune", "--policy", "policy.toml", "--storms", "4", "--scenario", "wide.toml"]
    assert main([*few, "--write"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "goodput in %, wide" in out
    assert "attempts per call" in out
    assert out.startswith("Better: ")
    assert isinstance(load_policy(path).limit, AutomaticLimit)
    assert path.read_text().startswith("# ours\n")
    text = path.read_text()
    assert main([*few, "--write"]) == 0
    assert "policy.toml is unchanged: nothing gains more than chance" in capsys.readouterr().err
    assert path.read_text() == text


@table_test(
    ("change", "expected_start"),
    [
        (2.0, "Better: patience 3 s."),
        (0.5, "Keep the policy as it is: patience 3 s gains no more than chance."),
        (-2.0, "Keep the policy as it is: patience 3 s is worse."),
    ],
)
def test_the_first_line_says_better_only_for_a_real_gain(change, expected_start):
    found = Tuned(
        policy=Policy(),
        changes={"patience": 3.0},
        candidates=48,
        searched=18,
        judged=18,
        goodput={"random storms": Difference(80.0, 80.0 + change, change, 1.0)},
        costs={},
        alone={},
    )
    assert sentence(found) == (
        f"{expected_start} 48 settings were tried in 18 storms, and the winner was judged in 18 others."
    )


def test_a_file_of_unusual_form_is_not_changed(small, tmp_path, capsys):
    path = tmp_path / "policy.toml"
    path.write_text('limit.kind = "fixed"\nlimit.max_in_flight = 1\n')
    text = path.read_text()
    code = main(["storm", "tune", "-p", str(path), "--storms", "4", "--write"])
    assert (code, path.read_text()) == (2, text)
    assert "cannot be changed, since a key has an unusual form" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["policy.toml"]


@table_test(
    ("args", "message"),
    [
        (["--write"], "--write needs --policy FILE"),
        (["--scale", "2"], "--scale needs --scenario"),
        (["--scenario", "bench"], "tuning needs a [load], got none"),
    ],
)
def test_invalid_options_are_rejected(capsys, args, message):
    assert main(["storm", "tune", *args]) == 2
    assert message in capsys.readouterr().err
