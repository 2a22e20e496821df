"""A fault selects its requests by text, number and attempt, and by chance among those."""

import pytest
from table_test import table_test

from stormbreak.provider.chance import mix
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.scenario import Fault
from stormbreak.provider.scenario_file import parse
from stormbreak.provider.timeline import RequestInfo, forecast, matches

from .conftest import CHAT


def row(text):
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


@table_test(
    ("keys", "chosen"),
    [
        ({"requests": (1, 3)}, [True, False, True, False]),
        ({"first_attempts": 1}, [True, True, False, False]),
        ({"first_attempts": 2, "requests": (3, 4)}, [False, False, True, True]),
        ({"match": "a"}, [True, False, True, False]),
        ({"match": "b", "first_attempts": 1}, [False, True, False, False]),
    ],
)
def test_a_fault_selects_requests_that_match_all_its_keys(keys, chosen):
    asked = [
        RequestInfo(1, 1, b"a"),
        RequestInfo(2, 1, b"b"),
        RequestInfo(3, 2, b"a"),
        RequestInfo(4, 2, b"b"),
    ]
    fault = Fault(kind=Kind.S500, **keys)
    assert [matches(fault, info) for info in asked] == chosen


def test_first_attempts_counts_separately_for_each_body(faulty, dial):
    client = dial(faulty("503", "first_attempts = 2"))
    statuses = [client.ask(payload=row(text)).status for text in "aabaabb"]
    assert statuses == [503, 503, 503, 200, 200, 503, 200]


def test_requests_are_numbered_from_one_after_start_and_reset(faulty, dial):
    provider = faulty("500", "requests = [2, 3]")
    client = dial(provider)
    for _ in range(2):
        assert [client.ask().status for _ in range(4)] == [200, 500, 500, 200]
        provider.reset()


@pytest.mark.parametrize("text", ["row 7", 'said "seven"', "zürich"])
def test_match_finds_a_text_that_json_escapes(faulty, dial, text):
    client = dial(faulty("404", f"match = '{text}'"))
    assert client.ask(payload=row(f"this is {text}!")).status == 404
    assert client.ask(payload=row("something else")).status == 200


def test_a_fault_with_a_selector_precedes_one_without(stormbreak_provider, dial):
    provider = stormbreak_provider("""
        [provider]
        service = 0
        [[faults]]
        kind = "500"
        [[faults]]
        kind = "404"
        match = "b"
        [[faults]]
        kind = "401"
        first_attempts = 1
    """)
    client = dial(provider)
    assert [client.ask(payload=row(text)).status for text in "abab"] == [401, 404, 500, 404]


def test_the_share_of_a_fault_applies_to_selected_requests_only():
    scenario = parse("[[faults]]\nkind = '500'\nrequests = [1]\nshare = 0.3")
    [phase] = forecast(scenario)
    drawn = [phase.draw(mix(n), RequestInfo(1, 1), streamed=False) for n in range(10_000)]
    assert sum(fault is not None for fault in drawn) == pytest.approx(3000, abs=150)
    assert not any(phase.draw(mix(n), RequestInfo(2, 1), streamed=False) for n in range(100))
    assert not any(phase.draw(mix(n), None, streamed=False) for n in range(100)), (
        "background traffic"
    )


def test_a_stream_fault_does_not_select_a_plain_request(faulty, dial):
    assert dial(faulty("cut_stream", "first_attempts = 1")).ask(payload=CHAT).json["choices"]


def test_a_fault_with_first_attempts_ends_at_its_until_time(stormbreak_provider, dial):
    provider = stormbreak_provider(
        "[provider]\nservice = 0\n[[faults]]\nkind = '500'\nfirst_attempts = 9\nuntil = 100\n",
        speed=1000,
    )
    client = dial(provider)
    assert client.ask().status == 500
    while provider.stats()["time"] < 100:
        pass
    assert client.ask().status == 200
