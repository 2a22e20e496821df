"""Live storms at a size that SDKs support: a dip of ten seconds, and draws of a survey with little traffic."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from stormbreak.provider.scenario import RECOVERY_WINDOW
from stormbreak.provider.scenario_file import load
from stormbreak.storm import simulate
from stormbreak.storm.live import Program, play
from stormbreak.storm.live.cpu_load import ENOUGH
from stormbreak.storm.live.scaling import staged
from stormbreak.storm.policies import find
from stormbreak.storm.random_storms import draw

pytestmark = pytest.mark.prove

CLIENTS = Path(__file__).parents[2] / "bench" / "live"
COPIES = 2
DIP = staged(load("dip"), scale=0.2, until=130, copies=COPIES)


CALM = 10.0  # seconds before the trigger of a draw
LUCKS = (1, 2, 3)


def played(client, policy, storm=DIP, seed=0):
    """The measures of a live client in a storm, and those of the simulator for its policy."""
    program = Program(client, (sys.executable, str(CLIENTS / f"{client}.py")))
    live = asyncio.run(play(storm, program, copies=storm.load.processes, seed=seed))
    assert live.busiest.program is None or live.busiest.program < ENOUGH
    return live.result.measures, simulate(storm, find(policy), seed=seed).measures


def brief(drawn):
    """A draw with less calm around its trigger: a minute on sockets."""
    scenario, load = drawn.scenario, drawn.scenario.load
    early = load.trigger_at - CALM
    faults = [
        replace(each, at=each.at - early, until=each.until - early) for each in scenario.faults
    ]
    until = load.trigger_until - early
    return replace(
        scenario,
        duration=until + RECOVERY_WINDOW,
        faults=tuple(faults),
        load=replace(load, trigger_at=CALM, trigger_until=until),
    )


def test_the_sdk_keeps_the_queue_full():
    live, simulated = played("openai_sdk", "openai_sdk")

    assert live.goodput <= 0.2
    assert live.recovery is None
    assert live.goodput == pytest.approx(simulated.goodput, abs=0.1)
    assert live.amplification == pytest.approx(simulated.amplification, rel=0.1)


def test_stormbreak_recovers_within_45_seconds():
    live, simulated = played("ours", "interactive")

    assert live.goodput >= 0.8
    assert live.recovery is not None
    assert live.recovery <= 45
    assert live.goodput == pytest.approx(simulated.goodput, abs=0.15)
    assert live.amplification <= 1.3


@pytest.mark.parametrize(
    ("family", "seed"),
    [
        pytest.param("mixed", 606, id="bad luck"),
        pytest.param("overload_luck", 364, id="overload"),
        pytest.param("flapping", 1128, id="flapping"),
    ],
)
def test_the_simulator_agrees_with_live_draws_of_a_survey(family, seed):
    storm = brief(draw(0, seed=seed, families=[family]))
    both = [played("ours", "interactive", storm, luck) for luck in LUCKS]
    live, simulated = (fmean(each.goodput for each in side) for side in zip(*both, strict=True))

    assert live == pytest.approx(simulated, abs=0.05)
