"""A dip on real sockets agrees with the simulator, and a burst takes no extra time."""

import asyncio
from statistics import median

import pytest
from bursts import IDLE, burst
from dip import DEADLINE, END, GOAL, RATE, RULE, SERVICE, live, simulated

from stormbreak.testing import serve

pytestmark = pytest.mark.prove


@pytest.fixture(scope="module")
def on_sockets():
    return live(1)


@pytest.fixture(scope="module")
def in_virtual_time():
    return simulated(1)


def test_every_call_ends_within_its_deadline(on_sockets):
    assert len(on_sockets.ended) == END * RATE
    assert max(call.at - call.came for call in on_sockets.ended) < DEADLINE + 1.0


def test_the_limit_adapts_to_the_remaining_capacity(on_sockets):
    assert on_sockets.settled(RULE + 1) <= 3 * SERVICE


def test_the_limit_stays_within_one_slot_of_the_goal(on_sockets):
    assert median(on_sockets.down(after=3 * SERVICE)) <= GOAL + 1


def test_the_limit_recovers_within_ten_service_times(on_sockets):
    assert on_sockets.back() <= 10 * SERVICE


def test_simulated_and_live_agree(on_sockets, in_virtual_time):
    """Within the bounds of docs/background/storms.md."""
    one, other = on_sockets, in_virtual_time
    assert one.settled(RULE + 1) == pytest.approx(other.settled(RULE + 1), abs=2.0)
    assert one.lowest() == pytest.approx(other.lowest(), abs=4)
    assert one.goodput() == pytest.approx(other.goodput(), abs=0.1)
    assert one.back() == pytest.approx(other.back(), abs=3.0)
    assert one.answers(0, END + DEADLINE) == pytest.approx(
        other.answers(0, END + DEADLINE), rel=0.05
    )


def test_a_burst_takes_as_long_as_without_any_policy():
    took = {}
    for policy in ("interactive", "off"):
        with serve(IDLE) as provider:
            runs = [asyncio.run(burst(provider.base_url, policy=policy))[1] for _ in range(3)]
        took[policy] = min(runs)

    assert took["interactive"] <= 1.2 * took["off"]
