"""Each trouble really does on the wire what it says."""

import json
import time
from email.utils import parsedate_to_datetime

import pytest

from stormbreak.testing import answer_text

from .conftest import CHAT, STREAM, plays

# ---------------------------------------------------------------- refusals


def test_a_wait_in_seconds_is_rounded_up(trouble, dial):
    heard = dial(trouble("429", "retry_after = 1.2")).ask()
    assert heard.headers["retry-after"] == "2"


def test_a_wait_in_milliseconds(trouble, dial):
    heard = dial(trouble("503", 'retry_after = 1.2\nretry_after_form = "ms"')).ask()
    assert heard.headers["retry-after-ms"] == "1200"
    assert "retry-after" not in heard.headers


def test_a_wait_as_a_date_is_never_sooner_than_meant(trouble, dial):
    before = time.time()
    heard = dial(trouble("529", 'retry_after = 3\nretry_after_form = "date"')).ask()
    until = parsedate_to_datetime(heard.headers["retry-after"]).timestamp()
    assert before + 3 <= until <= time.time() + 4
    assert parsedate_to_datetime(heard.headers["date"]).timestamp() <= time.time()


def test_a_reset_is_a_reset(trouble, dial):
    heard = dial(trouble("reset")).ask()
    assert (heard.status, heard.ending) == (None, "reset")


def test_a_hang_says_nothing(trouble, dial):
    provider = trouble("hang")
    heard = dial(provider).ask(patience=0.2)
    assert (heard.status, heard.ending) == (None, "silent")
    assert provider.stats()["faults"]["hang"] == 1


# ---------------------------------------------------------------- spoilt plain answers


@plays("slow_headers")
def test_slow_headers_come_late_but_the_answer_is_good(trouble, dial):
    heard = dial(trouble("slow_headers", "added_latency = 0.2")).ask()
    assert heard.json["choices"]
    assert len(heard.times) > 1
    assert heard.times[-1] > 0.18


@plays("slow_body")
def test_a_slow_body_dribbles(trouble, dial):
    provider = trouble("slow_body", "added_latency = 0.3")
    heard = dial(provider).ask()
    assert heard.json["choices"]
    assert len(heard.times) > 3
    assert heard.times[-1] > 0.28
    assert provider.stats()["keys"]["answered"] == 1


@plays("cut_body")
def test_a_cut_body_promises_more_than_it_sends(trouble, dial):
    provider = trouble("cut_body")
    heard = dial(provider).ask()
    assert (heard.status, heard.ending) == (200, "closed")
    assert 0 < len(heard.body) < int(heard.headers["content-length"])
    assert provider.stats()["keys"]["answered"] == 0


@plays("empty_body")
def test_an_empty_body(trouble, dial):
    heard = dial(trouble("empty_body")).ask()
    assert (heard.status, heard.body, heard.headers["content-length"]) == (200, b"", "0")


@plays("invalid_json")
def test_invalid_json_is_complete_by_its_length(trouble, dial):
    heard = dial(trouble("invalid_json")).ask()
    assert len(heard.body) == int(heard.headers["content-length"])
    with pytest.raises(json.JSONDecodeError):
        json.loads(heard.body)


@plays("error_in_200")
def test_an_error_in_a_200(trouble, dial):
    heard = dial(trouble("error_in_200")).ask()
    assert heard.status == 200
    assert heard.json == {"error": {"message": "the upstream provider failed", "code": 502}}


@plays("rate_limit_in_200")
def test_a_rate_limit_in_a_200(trouble, dial):
    client = dial(trouble("rate_limit_in_200"))
    plain, streamed = client.ask(), client.ask(payload=STREAM)
    assert plain.status == streamed.status == 200
    assert plain.json["error"]["code"] == "rate_limit_exceeded"
    assert [json.loads(event) for event in streamed.events] == [plain.json]


@plays("empty_choices")
def test_no_choices_in_a_200(trouble, dial):
    client = dial(trouble("empty_choices"))
    assert client.ask().json["choices"] == []
    assert client.ask(payload=STREAM).events == [b"[DONE]"]
    version = ["anthropic-version: 2023-06-01"]
    claude = {**CHAT, "max_tokens": 9}
    assert client.ask(path="/v1/messages", payload=claude, headers=version).json["content"] == []
    asked = {"model": "m", "input": "hi"}
    for stream in (False, True):
        heard = client.ask(path="/v1/responses", payload={**asked, "stream": stream})
        assert (heard.status, b"output_text" in heard.body) == (200, False)
    assert client.ask(path="/v1/embeddings", payload=asked).json["data"] == []


@pytest.mark.parametrize("kind", ["cut_stream", "stream_reset"])
def test_what_befalls_streams_leaves_plain_answers_alone(trouble, dial, kind):
    assert dial(trouble(kind)).ask().json["choices"]


# ---------------------------------------------------------------- streams


def deltas(events):
    return [json.loads(event)["choices"][0]["delta"] for event in events if event != b"[DONE]"]


def text_of(events):
    return "".join(delta.get("content", "") for delta in deltas(events))


def test_a_good_stream_has_a_role_words_an_end_and_done(stormbreak_provider, dial):
    provider = stormbreak_provider("[provider]\nservice = 0.3\nvariation = 0\nprefill = 0.5")
    client = dial(provider)
    heard = client.ask(payload=STREAM)
    assert heard.headers["content-type"].startswith("text/event-stream")
    assert deltas(heard.events)[0] == {"role": "assistant", "content": ""}
    assert text_of(heard.events) == answer_text(CHAT)
    assert json.loads(heard.events[-2])["choices"][0]["finish_reason"] == "stop"
    assert heard.events[-1] == b"[DONE]"
    assert not any(b"usage" in event for event in heard.events)
    assert heard.times[0] > 0.14, "the first token comes after the prefill"
    assert len(heard.times) > 3, "the words come one by one"
    assert client.ask().json["choices"][0]["message"]["content"] == answer_text(CHAT)


def test_a_stream_tells_its_usage_where_it_is_asked_to(stormbreak_provider, dial):
    payload = {**STREAM, "stream_options": {"include_usage": True}}
    heard = dial(stormbreak_provider("calm", speed=1000)).ask(payload=payload)
    last = json.loads(heard.events[-2])
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] > 0


@plays("cut_stream")
def test_a_cut_stream_ends_cleanly_without_an_end(trouble, dial):
    heard = dial(trouble("cut_stream")).ask(payload=STREAM)
    assert (heard.status, heard.ending) == (200, "open")
    assert heard.body.endswith(b"0\r\n\r\n")
    assert text_of(heard.events)
    assert b"[DONE]" not in heard.body
    assert b'"stop"' not in heard.body


@plays("stream_reset")
@pytest.mark.parametrize("service", [0.0, 0.1])
def test_a_stream_is_reset_midway(trouble, dial, service):
    heard = dial(trouble("stream_reset", service=service)).ask(payload=STREAM)
    assert (heard.status, heard.ending) == (200, "reset")
    assert b"data: " in heard.body
    assert b"[DONE]" not in heard.body


def test_a_cut_body_of_a_stream_lacks_the_last_chunk(trouble, dial):
    heard = dial(trouble("cut_body")).ask(payload=STREAM)
    assert heard.ending == "closed"
    assert b"data: " in heard.body
    assert not heard.body.endswith(b"0\r\n\r\n")


def test_other_stream_faults(trouble, dial):
    assert dial(trouble("empty_body")).ask(payload=STREAM).body == b"0\r\n\r\n"
    broken = dial(trouble("invalid_json")).ask(payload=STREAM).events[-1]
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken)
    error = dial(trouble("error_in_200")).ask(payload=STREAM).events[-1]
    assert json.loads(error)["error"]["code"] == 502


@pytest.mark.parametrize("kind", ["slow_headers", "slow_body"])
def test_slow_streams_are_late_but_whole(trouble, dial, kind):
    provider = trouble(kind, "added_latency = 0.2")
    heard = dial(provider).ask(payload=STREAM)
    assert heard.times[-1] > 0.15
    assert text_of(heard.events) == answer_text(CHAT)
    assert heard.events[-1] == b"[DONE]"
    assert provider.stats()["keys"]["answered"] == 1
