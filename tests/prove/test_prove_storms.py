"""Known facts about retries in a storm, reproduced by the simulator."""

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.presets import INTERACTIVE
from stormbreak.provider.scenario_file import load
from stormbreak.storm import simulate
from stormbreak.storm.policies import find

pytestmark = pytest.mark.prove


def measured(scenario, policy, seed=1):
    return simulate(load(scenario), find(policy), seed=seed).measures


@pytest.mark.parametrize(
    ("policy", "amplification"),
    [
        ("naive", 5.8),
        ("fixed", 5.8),
        ("full_jitter", 5.6),
        ("exponential", 4.7),  # its last delay reaches beyond the deadline
        ("decorrelated", 4.7),
        ("openai_sdk", 3.0),
    ],
)
def test_retries_alone_never_recover_from_the_incident(policy, amplification):
    """Neither backoff nor jitter helps: with open arrivals they only move the same traffic in time."""
    incident = measured("incident", policy)

    assert incident.goodput <= 0.05
    assert incident.recovery is None
    assert incident.wasted > 0.9
    assert incident.amplification == pytest.approx(amplification, rel=0.05)


def test_without_retries_the_incident_is_over_in_a_minute():
    incident = measured("incident", "none")

    assert incident.goodput == pytest.approx(0.91, abs=0.02)
    assert incident.trigger_goodput == pytest.approx(0.27, abs=0.03)
    assert incident.recovery == pytest.approx(50, abs=15)
    assert incident.amplification == 1.0


LIMITS = {
    "fixed": replace(INTERACTIVE, limit=FixedLimit(), adaptive_rate=False),
    "aimd": replace(INTERACTIVE, limit=AimdLimit(), adaptive_rate=False),
    "automatic": INTERACTIVE,
}
LIMITS_TABLE = re.findall(
    r"^\| `([a-z-]+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$",
    (Path(__file__).parents[2] / "docs" / "background" / "sensitivity.md").read_text(),
    re.MULTILINE,
)


@pytest.mark.parametrize(("scenario", "figures"), [(row[0], row[1:]) for row in LIMITS_TABLE])
def test_limits_reach_the_goodput_in_the_table_of_the_docs(scenario, figures):
    for policy, figure in zip(LIMITS.values(), figures, strict=True):
        storms = [simulate(load(scenario), policy, seed=seed).measures for seed in range(3)]
        assert sum(storm.goodput for storm in storms) / 3 == pytest.approx(float(figure), abs=0.03)


@pytest.mark.parametrize("scenario", ["dip", "outage", "blackhole", "serverless", "brownout"])
def test_naive_retries_keep_a_full_queue_full(scenario):
    """Most of the few answers come before the collapse."""
    storm = measured(scenario, "naive")

    assert storm.goodput <= 0.07
    assert storm.recovery is None


@pytest.mark.parametrize(
    ("scenario", "goodput"),
    [
        ("dip", 0.92),
        ("outage", 0.88),
        ("blackhole", 0.91),
        ("rpm-window", 0.86),
        ("rpm-bucket", 0.83),
        ("gather", 0.205),
        ("partial", 0.77),
        ("serverless", 0.78),
        ("brownout", 0.69),
        ("herd", 0.635),
    ],
)
def test_a_storm_without_retries_agrees_with_the_prototype(scenario, goodput):
    """Another program made the published table; the same model gives the same figures."""
    assert measured(scenario, "none").goodput == pytest.approx(goodput, abs=0.03)


def test_retries_recover_from_random_errors():
    assert measured("partial", "none").goodput == pytest.approx(0.77, abs=0.02)
    assert measured("partial", "naive").goodput >= 0.99


def test_the_incident_is_simulated_within_twenty_seconds():
    began = time.process_time()
    incident = measured("incident", "interactive")

    assert incident.calls > 155_000
    assert time.process_time() - began <= 20.0
