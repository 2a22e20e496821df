"""Records come from what the provider observes, and not from the output of a program."""

import json

import pytest

from stormbreak.provider.formats.registry import FORMATS, understand
from stormbreak.storm.live.observations import Bounds, Observations, Prompts, waits
from stormbreak.storm.measures import Record

PROMPTS = Prompts("storm 3fa9c1")


def asked(prompt, **more):
    """A request as parsed by the provider."""
    payload = {"model": "m", "messages": [{"role": "user", "content": prompt}], **more}
    body = json.dumps(payload, indent=2).encode()
    return understand(FORMATS["/v1/chat/completions"], {}, body)


def observations():
    return Observations(lambda asked: PROMPTS.number_in(asked.essence))


def test_a_call_is_recognized_by_its_prompt_within_any_request():
    assert PROMPTS.number_in(asked(PROMPTS.prompt(17)).essence) == 17
    more = asked(f"Be brief.\n{PROMPTS.prompt(4)} Thanks!", temperature=0.3, stream=True)
    assert PROMPTS.number_in(more.essence) == 4
    assert PROMPTS.number_in(asked("Hello?").essence) is None
    assert PROMPTS.number_in(asked(Prompts("storm 000000").prompt(4)).essence) is None


def test_the_last_prompt_of_a_conversation_counts():
    messages = [{"role": "user", "content": PROMPTS.prompt(number)} for number in (30, 4)]
    assert PROMPTS.number_in(asked("", messages=messages).essence) == 4


def test_a_line_has_all_values_of_a_call():
    bounds = Bounds(model="storm-1", deadline=30.0, timeout=10.0)
    line = PROMPTS.line(17, bounds, called=17, tokens=1000)

    assert line.endswith(b"}\n")
    assert json.loads(line) == {
        "call": 17,
        "prompt": "call 17 of storm 3fa9c1: say something about the weather.",
        "model": "storm-1",
        "deadline": 30.0,
        "timeout": 10.0,
        "max_tokens": 960,
    }
    assert "max_tokens" not in json.loads(PROMPTS.line(1, bounds, called=1))


def test_observations_become_records_of_the_calls():
    seen = observations()
    one, two, three = (asked(PROMPTS.prompt(number)) for number in (1, 2, 3))
    seen.received(one, 0.7)
    seen.received(two, 1.5)
    seen.received(two, 3.0)
    seen.received(three, 3.2)
    seen.answered(one, 2.0)
    seen.answered(two, 11.1)
    seen.answered(three, 13.0)  # exactly in time
    seen.answered(three, 13.5)

    assert seen.for_sent_calls([0.5, 1.0, 3.0, 4.0], deadline=10.0) == [
        Record(0.5, 2.0, True, 1, pytest.approx(0.2)),
        Record(1.0, 11.0, False, 2, 0.5),  # too late
        Record(3.0, 13.0, True, 1, pytest.approx(0.2)),
        Record(4.0, 14.0, False, 0, 0.0),  # no request came
    ]
    assert seen.attempts == [1, 1, 0, 2]
    assert (seen.answers, seen.unmatched_requests) == (3, 0)


def test_a_request_without_a_prompt_is_unmatched():
    seen = observations()
    seen.received(asked("Hello?"), 0.1)
    seen.answered(asked("Hello?"), 0.2)

    assert (seen.unmatched_requests, seen.answers, seen.attempts, seen.calls) == (1, 0, [1], {})


def test_own_traffic_is_recognized_by_its_bodies():
    seen = Observations(lambda asked: asked.digest)
    seen.received(asked("b"), 2.0)
    seen.received(asked("a"), 1.0)
    seen.received(asked("a", stream=True), 2.5)  # streaming does not change the call
    seen.received(asked("c"), 9.0)
    seen.answered(asked("b"), 3.0)

    assert seen.for_unknown_calls(until=9.0, deadline=5.0) == [
        Record(1.0, 6.0, False, 2, 0.0),
        Record(2.0, 3.0, True, 1, 0.0),
    ]


def test_waits_count_only_calls_in_the_measured_time():
    records = [
        Record(1.0, 2.0, True, 1, 9.0),
        Record(5.0, 6.0, True, 1, 0.1),
        Record(6.0, 7.0, True, 1, 0.3),
        Record(7.0, 9.0, False, 0, 0.0),
    ]
    assert waits(records, 5.0) == (0.1, 0.3)
    assert waits(records, 8.0) == (0.0, 0.0)
