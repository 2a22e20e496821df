"""A simulated reply has the same outcome as the same fault on a real socket."""

import pytest
from table_test import table_test

from stormbreak.core.presets import INTERACTIVE, OFF
from stormbreak.errors import ConfigurationError
from stormbreak.events import CallEnded
from stormbreak.http.client import AsyncClient
from stormbreak.provider.capacity_model import Part, ProviderModel, Reply
from stormbreak.provider.fault_kinds import (
    CONDITIONS,
    REFUSALS,
    SILENT,
    STREAM_ONLY,
    WELL_FORMED,
    Kind,
    WaitForm,
)
from stormbreak.provider.scenario import Burst, Fault, Load, Provider, Scenario
from stormbreak.storm import simulate
from stormbreak.storm.simulated_provider import delay_of, is_seen, outcome_of
from stormbreak.types import Verdict

NEVER_DRAWN = {Kind.EARLY_ANSWER}  # simulated requests come whole
ANSWERED = set(Kind) - CONDITIONS - SILENT - NEVER_DRAWN
PLAIN = [*sorted(ANSWERED - STREAM_ONLY), Kind.DOWN]
BODY = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
KEYS = {
    Kind.SLOW_HEADERS: {"added_latency": 0.01},
    Kind.SLOW_BODY: {"added_latency": 0.01},
    Kind.BUDGET: {"retry_after": 2.0},
}
NAMED_WAITS = [
    (Kind.S429, WaitForm.SECONDS),
    (Kind.S429, WaitForm.MS),
    (Kind.S503, WaitForm.SECONDS),
    (Kind.S429, WaitForm.BARE),
]


def storm(**fault):
    provider = Provider(service=0.01, variation=0.0)
    return Scenario(name="one", provider=provider, faults=(Fault(**fault),))


def simulated(scenario, *, streamed=False):
    model = ProviderModel(scenario)
    model.arrive(0.0, key=1, streamed=streamed)
    return outcome_of(model.advance(10.0)[-1], streamed=streamed)


async def live(provider, *, streamed=False):
    async with AsyncClient(
        base_url=provider.base_url, model="m", policy=OFF, stream_on_wire=streamed
    ) as client:
        ended = await client.ask("chat/completions", BODY)
    return ended.outcome


def meaning(outcome):
    return outcome.verdict, outcome.status, outcome.retry_after, outcome.maybe_processed


@table_test("kind", PLAIN)
async def test_each_fault_has_the_same_outcome_as_on_a_socket(kind, stormbreak_provider):
    scenario = storm(kind=kind, **KEYS.get(kind, {}))

    assert meaning(simulated(scenario)) == meaning(await live(stormbreak_provider(scenario)))


@table_test("kind", sorted(ANSWERED - REFUSALS))
async def test_each_stream_fault_has_the_same_outcome_as_on_a_socket(kind, stormbreak_provider):
    scenario = storm(kind=kind, **KEYS.get(kind, {}))
    outcome = await live(stormbreak_provider(scenario), streamed=True)

    assert meaning(simulated(scenario, streamed=True)) == meaning(outcome)


@table_test(("kind", "form"), NAMED_WAITS)
async def test_a_wait_is_rounded_as_on_a_socket(kind, form, stormbreak_provider):
    scenario = storm(kind=kind, retry_after=2.3, retry_after_form=form)

    assert meaning(simulated(scenario)) == meaning(await live(stormbreak_provider(scenario)))


def test_a_final_reply_names_no_time():
    fault = Fault(kind=Kind.S401, retry_after=3.0)

    assert outcome_of(Reply(1.0, 1, Part.WHOLE, fault, 1.0, 3.0)).retry_after is None


def test_every_kind_of_reply_has_an_outcome():
    for kind in ANSWERED | {Kind.DOWN}:
        fault = Fault(kind=kind, **KEYS.get(kind, {}))
        outcome = outcome_of(Reply(1.0, 1, Part.WHOLE, fault, 1.0))
        assert (outcome.verdict is Verdict.OK) == (kind in WELL_FORMED | {Kind.STALE})
        assert kind in REFUSALS or kind is Kind.DOWN or outcome.status in {200, None}


@table_test(
    ("kind", "begins", "ends"),
    [(Kind.STALL, True, False), (Kind.STALL_EARLY, False, False), (Kind.ERROR_EARLY, False, True)],
)
def test_a_reply_shows_rate_limit_headers_only_if_it_has_headers(kind, begins, ends):
    fault = Fault(kind=kind)

    assert is_seen(Reply(1.0, 1, Part.FIRST, fault, 2.0)) is begins
    assert is_seen(Reply(2.0, 1, Part.WHOLE, fault, 2.0)) is ends


def test_a_stalled_answer_costs_a_simulated_call_its_timeout():
    """The second call stalls; the others are answered at once."""
    scenario = Scenario(
        name="stalls",
        duration=60.0,
        provider=Provider(service=0.1, variation=0.0),
        faults=(Fault(kind=Kind.STALL, requests=(2,)),),
        load=Load(bursts=(Burst(at=1.0, calls=1, repeat=3, every=5.0),), timeout=3.0),
    )
    ended = []
    simulate(scenario, OFF, listener=lambda e: ended.append(e) if type(e) is CallEnded else None)

    assert [(each.at, each.verdict) for each in ended] == [
        (1.1, Verdict.OK),
        (9.0, Verdict.TIMEOUT),
        (11.1, Verdict.OK),
    ]


def test_first_attempts_count_per_simulated_call():
    scenario = Scenario(
        name="first",
        duration=60.0,
        provider=Provider(service=0.1, variation=0.0),
        faults=(Fault(kind=Kind.S503, first_attempts=1),),
        load=Load(bursts=(Burst(at=1.0, calls=1),), timeout=3.0),
    )
    ended = []
    simulate(
        scenario, INTERACTIVE, listener=lambda e: ended.append(e) if type(e) is CallEnded else None
    )

    assert [(each.verdict, each.attempts) for each in ended] == [(Verdict.OK, 2)]


def test_a_fault_that_matches_text_cannot_be_simulated():
    fault = Fault(kind=Kind.S500, match="row 7")
    scenario = Scenario(name="x", faults=(fault,), load=Load(rate=1.0))

    with pytest.raises(ConfigurationError, match=r"x: faults\[0\].match cannot be simulated"):
        simulate(scenario, OFF)


def test_a_slow_body_is_complete_later():
    slow = Fault(kind=Kind.SLOW_BODY, added_latency=7.0)

    assert delay_of(Reply(1.0, 1, Part.WHOLE, slow, 1.0)) == 7.0
    assert delay_of(Reply(1.0, 1, Part.WHOLE, None, 1.0)) == 0.0
