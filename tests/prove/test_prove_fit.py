"""`storm fit` recovers service time and slots of random scenarios, from logs of the provider model."""

import asyncio
import time

import pytest
from access_logs import provider_log

from stormbreak import AsyncClient
from stormbreak.core.presets import OFF
from stormbreak.provider.in_thread import serve
from stormbreak.provider.scenario import Load, Provider, Scenario, Step
from stormbreak.storm.access_log import read_log
from stormbreak.storm.fit.evidence import evidence
from stormbreak.storm.fit.scenario import fit
from stormbreak.storm.random_storms import draw
from stormbreak.storm.traffic import traffic

pytestmark = pytest.mark.prove

SEED = 20261129  # not used during the development of `storm fit`
OVERLOAD = ("spike", "ramp", "herd")  # more calls than the capacity of the target


def fitted(number, families=()):
    storm = draw(number, seed=SEED, families=families)
    return storm.scenario.provider, evidence(provider_log(storm.scenario, seed=SEED))


@pytest.mark.parametrize("number", range(20))
def test_service_time_and_slots_are_recovered_within_15_percent(number):
    provider, found = fitted(number, OVERLOAD)
    capacity = found.capacity
    assert capacity.best.mean == pytest.approx(provider.service, rel=0.15)
    if capacity.most_slots is None:
        assert capacity.fewest_slots <= provider.slots
    else:
        assert capacity.best.slots == pytest.approx(provider.slots, rel=0.15)


@pytest.mark.parametrize("number", range(38))
def test_the_lower_bound_of_slots_holds_in_every_family(number):
    provider, found = fitted(number)
    if found.capacity.most_slots is None:
        assert found.capacity.fewest_slots <= provider.slots


SPEED = 5.0
PEAK = Scenario(
    name="peak",
    speed=SPEED,
    duration=90.0,
    provider=Provider(slots=12, service=1.5, variation=0.6),
    load=Load(rate=5.0, steps=(Step(at=30.0, rate=16.0), Step(at=50.0, rate=5.0)), timeout=30.0),
)


async def test_service_and_slots_are_recovered_from_a_log_on_sockets(tmp_path):
    """The log has the start, the latency and the status of each call, as an application writes them."""
    lines = []
    with serve(PEAK) as provider:
        async with AsyncClient(base_url=provider.base_url, api_key="none", policy=OFF) as client:
            begin = time.monotonic()

            async def call(at):
                await asyncio.sleep(begin + at / SPEED - time.monotonic())
                start = time.monotonic()
                await client.chat("hello", model="storm-1", max_tokens=5)
                seconds = (start - begin) * SPEED, (time.monotonic() - start) * SPEED
                lines.append("{:.3f},{:.3f},200\n".format(*seconds))

            times = traffic(PEAK.load, PEAK.duration, SEED).times
            await asyncio.gather(*map(call, times))
    path = tmp_path / "calls.csv"
    path.write_text("time,latency,status\n" + "".join(lines))
    found = fit(read_log(path)).scenario.provider
    assert found.service == pytest.approx(1.5, rel=0.15)
    assert found.slots == pytest.approx(12, rel=0.15)
