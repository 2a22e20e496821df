"""A simulated reply means to the engine what the same trouble means on a real socket."""

import pytest

from stormbreak.core.presets import OFF
from stormbreak.http.client import AsyncClient
from stormbreak.provider.kinds import CONDITIONS, REFUSALS, SLOW, STREAM_ONLY, Form, Kind
from stormbreak.provider.model import Part, ProviderModel, Reply
from stormbreak.provider.scenario import Provider, Scenario, Trouble
from stormbreak.storm.replies import delay_of, outcome_of
from stormbreak.types import Verdict

SILENT = {Kind.HANG}  # no reply ever comes
PLAIN = [*sorted(set(Kind) - CONDITIONS - SILENT - STREAM_ONLY), Kind.DOWN]
BODY = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
TOLD = [
    (Kind.S429, Form.SECONDS),
    (Kind.S429, Form.MS),
    (Kind.S503, Form.SECONDS),
    (Kind.S429, Form.BARE),
]


def storm(**trouble):
    provider = Provider(service=0.01, cv=0.0)
    return Scenario(name="one", provider=provider, trouble=(Trouble(**trouble),))


def simulated(scenario):
    model = ProviderModel(scenario)
    model.arrive(0.0, key=1)
    [reply] = model.advance(10.0)
    return outcome_of(reply)


async def live(provider):
    async with AsyncClient(base_url=provider.base_url, model="m", policy=OFF) as client:
        ended = await client.ask("chat/completions", BODY)
    return ended.outcome


def meaning(outcome):
    return outcome.verdict, outcome.status, outcome.retry_after, outcome.maybe_processed


@pytest.mark.parametrize("kind", PLAIN)
async def test_each_trouble_means_what_it_means_on_the_wire(kind, stormbreak_provider):
    scenario = storm(kind=kind, seconds=0.01) if kind in SLOW else storm(kind=kind)

    assert meaning(simulated(scenario)) == meaning(await live(stormbreak_provider(scenario)))


@pytest.mark.parametrize(("kind", "form"), TOLD)
async def test_a_wait_is_told_as_on_the_wire(kind, form, stormbreak_provider):
    scenario = storm(kind=kind, retry_after=2.3, form=form)

    assert meaning(simulated(scenario)) == meaning(await live(stormbreak_provider(scenario)))


def test_a_final_answer_names_no_time():
    trouble = Trouble(kind=Kind.S401, retry_after=3.0)

    assert outcome_of(Reply(1.0, 1, Part.WHOLE, trouble, 1.0, 3.0)).retry_after is None


def test_every_kind_that_is_answered_has_a_meaning():
    for kind in set(Kind) - SILENT - {Kind.CAPACITY, Kind.SERVICE}:
        outcome = outcome_of(Reply(1.0, 1, Part.WHOLE, Trouble(kind=kind), 1.0))
        assert (outcome.verdict is Verdict.OK) == (kind in SLOW)
        assert kind in REFUSALS or kind is Kind.DOWN or outcome.status == 200


def test_a_slow_answer_is_whole_later():
    slow = Trouble(kind=Kind.SLOW_BODY, seconds=7.0)

    assert delay_of(Reply(1.0, 1, Part.WHOLE, slow, 1.0)) == 7.0
    assert delay_of(Reply(1.0, 1, Part.WHOLE, None, 1.0)) == 0.0
