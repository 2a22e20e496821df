"""The claims of docs/background/theory.md hold today."""

import re
from dataclasses import replace

import pytest

from published import theory
from published.theory import PAGE, claims
from stormbreak.config import load_policy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.provider.scenario_file import load
from stormbreak.storm import simulate

CLAIMS = claims(PAGE.read_text())
QUICK = {"calm-burst", "room"}
FILES = PAGE.parent / "theory"


def named(claim):
    return f"{claim.scenario}-{claim.arguments[4]}"


def test_every_command_of_the_page_is_a_claim():
    commands = re.findall(r"^\$ stormbreak storm run", PAGE.read_text(), re.MULTILINE)

    assert len(CLAIMS) == len(commands) == 11
    assert all("--assert" in claim.arguments for claim in CLAIMS)


def test_every_file_is_used():
    used = " ".join(word for claim in CLAIMS for word in claim.arguments)

    assert {path.stem for path in FILES.iterdir()} == set(
        re.findall(r"docs/background/theory/([\w-]+)", used)
    )


@pytest.mark.parametrize("claim", [c for c in CLAIMS if c.scenario in QUICK], ids=named)
def test_a_quick_claim_holds(claim):
    run = claim.run()

    assert run.returncode == 0, run.stderr


@pytest.mark.prove
@pytest.mark.parametrize("claim", [c for c in CLAIMS if c.scenario not in QUICK], ids=named)
def test_a_storm_claim_holds(claim):
    test_a_quick_claim_holds(claim)


def test_a_false_claim_fails():
    claim = next(claim for claim in CLAIMS if claim.scenario == "calm-burst")
    wrong = (*claim.arguments[:-1], "shed > 0")

    assert theory.Claim(wrong).run().returncode == 1


@pytest.mark.prove
@pytest.mark.parametrize(
    ("ratio", "recovers"), [(0.1, True), (0.22, True), (0.28, False), (0.5, False)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_law_of_the_budget_holds_along_the_ratio(ratio, recovers, seed):
    """40 calls a second against a capacity of 50: load x (1 + ratio) is the capacity at a ratio of 0.25."""
    law = load(str(FILES / "law.toml"))
    policy = load_policy(FILES / "ratio-10.toml")
    budget = BudgetPolicy(ratio=ratio, low_traffic_calls=0)
    storm = simulate(law, replace(policy, retry_budget=budget), seed=seed).measures

    assert recovers == (storm.recovery is not None)
    if not recovers:
        assert storm.amplification == pytest.approx(1 + ratio, abs=0.02)


@pytest.mark.prove
@pytest.mark.parametrize(("rate", "recovers"), [(35, True), (48, False)])
def test_the_law_of_the_budget_holds_along_the_load(rate, recovers):
    """At a ratio of 0.2 the line is a load of 41.7."""
    law = load(str(FILES / "law.toml"))
    law = replace(law, load=replace(law.load, rate=float(rate)))
    storm = simulate(law, load_policy(FILES / "ratio-20.toml")).measures

    assert recovers == (storm.recovery is not None)
