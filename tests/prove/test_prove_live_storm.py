"""A live storm at a size that SDKs bear: a dip of ten seconds is for good without us, and soon over with us."""

import asyncio
import sys
from pathlib import Path

import pytest

from stormbreak.provider.loader import load
from stormbreak.storm import simulate
from stormbreak.storm.contenders import find
from stormbreak.storm.live import Program, play
from stormbreak.storm.live.busy import ENOUGH
from stormbreak.storm.live.scaled import staged

pytestmark = pytest.mark.prove

CLIENTS = Path(__file__).parents[2] / "bench" / "live"
COPIES = 2
DIP = staged(load("dip"), scale=0.2, until=130, copies=COPIES)


def played(client, policy):
    """What a client made of the dip, and what the simulator says of the policy that it has."""
    program = Program(client, (sys.executable, str(CLIENTS / f"{client}.py")))
    storm = asyncio.run(play(DIP, program, copies=COPIES))
    assert storm.busiest.program is None or storm.busiest.program < ENOUGH
    return storm.result.measures, simulate(DIP, find(policy)).measures


def test_the_sdk_keeps_the_queue_full():
    live, simulated = played("openai_sdk", "openai_sdk")

    assert live.goodput <= 0.2
    assert live.recovery is None
    assert live.goodput == pytest.approx(simulated.goodput, abs=0.1)
    assert live.amplification == pytest.approx(simulated.amplification, rel=0.1)


def test_ours_is_soon_over_it():
    live, simulated = played("ours", "interactive")

    assert live.goodput >= 0.8
    assert live.recovery is not None
    assert live.recovery <= 45
    assert live.goodput == pytest.approx(simulated.goodput, abs=0.15)
    assert live.amplification <= 1.3
