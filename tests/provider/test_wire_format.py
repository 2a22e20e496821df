"""Each fault does on the wire what its name says."""

import json
import time
from email.utils import parsedate_to_datetime

import pytest

from stormbreak.testing import answer_text

from .conftest import CHAT, STREAM, plays

# ---------------------------------------------------------------- refusals


def test_a_wait_in_seconds_is_rounded_up(faulty, dial):
    response = dial(faulty("429", "retry_after = 1.2")).ask()
    assert response.headers["retry-after"] == "2"


def test_a_wait_in_milliseconds_has_its_own_header(faulty, dial):
    response = dial(faulty("503", 'retry_after = 1.2\nretry_after_form = "ms"')).ask()
    assert response.headers["retry-after-ms"] == "1200"
    assert "retry-after" not in response.headers


def test_a_wait_as_a_date_is_never_sooner_than_configured(faulty, dial):
    before = time.time()
    response = dial(faulty("529", 'retry_after = 3\nretry_after_form = "date"')).ask()
    until = parsedate_to_datetime(response.headers["retry-after"]).timestamp()
    assert before + 3 <= until <= time.time() + 4
    assert parsedate_to_datetime(response.headers["date"]).timestamp() <= time.time()


def test_reset_resets_the_connection(faulty, dial):
    response = dial(faulty("reset")).ask()
    assert (response.status, response.ending) == (None, "reset")


def test_hang_sends_nothing(faulty, dial):
    provider = faulty("hang")
    response = dial(provider).ask(patience=0.2)
    assert (response.status, response.ending) == (None, "silent")
    assert provider.stats()["faults"]["hang"] == 1


# ---------------------------------------------------------------- broken plain answers


@plays("slow_headers")
def test_slow_headers_delays_the_head_of_a_good_answer(faulty, dial):
    response = dial(faulty("slow_headers", "added_latency = 0.2")).ask()
    assert response.json["choices"]
    assert len(response.times) > 1
    assert response.times[-1] > 0.18


@plays("slow_body")
def test_slow_body_sends_a_good_answer_in_slow_pieces(faulty, dial):
    provider = faulty("slow_body", "added_latency = 0.3")
    response = dial(provider).ask()
    assert response.json["choices"]
    assert len(response.times) > 3
    assert response.times[-1] > 0.28
    assert provider.stats()["keys"]["answered"] == 1


@plays("cut_body")
def test_cut_body_declares_more_bytes_than_it_sends(faulty, dial):
    provider = faulty("cut_body")
    response = dial(provider).ask()
    assert (response.status, response.ending) == (200, "closed")
    assert 0 < len(response.body) < int(response.headers["content-length"])
    assert provider.stats()["keys"]["answered"] == 0


@plays("empty_body")
def test_empty_body_sends_a_200_without_a_body(faulty, dial):
    response = dial(faulty("empty_body")).ask()
    assert (response.status, response.body, response.headers["content-length"]) == (200, b"", "0")


@plays("invalid_json")
def test_invalid_json_has_the_declared_length(faulty, dial):
    response = dial(faulty("invalid_json")).ask()
    assert len(response.body) == int(response.headers["content-length"])
    with pytest.raises(json.JSONDecodeError):
        json.loads(response.body)


@plays("error_in_200")
def test_error_in_200_sends_an_error_object(faulty, dial):
    response = dial(faulty("error_in_200")).ask()
    assert response.status == 200
    assert response.json == {"error": {"message": "the upstream provider failed", "code": 502}}


@plays("rate_limit_in_200")
def test_rate_limit_in_200_sends_a_rate_limit_error_object(faulty, dial):
    client = dial(faulty("rate_limit_in_200"))
    plain, streamed = client.ask(), client.ask(payload=STREAM)
    assert plain.status == streamed.status == 200
    assert plain.json["error"]["code"] == "rate_limit_exceeded"
    assert [json.loads(event) for event in streamed.events] == [plain.json]


@plays("empty_choices")
def test_empty_choices_sends_an_answer_without_choices(faulty, dial):
    client = dial(faulty("empty_choices"))
    assert client.ask().json["choices"] == []
    assert client.ask(payload=STREAM).events == [b"[DONE]"]
    version = ["anthropic-version: 2023-06-01"]
    claude = {**CHAT, "max_tokens": 9}
    assert client.ask(path="/v1/messages", payload=claude, headers=version).json["content"] == []
    asked = {"model": "m", "input": "hi"}
    for stream in (False, True):
        response = client.ask(path="/v1/responses", payload={**asked, "stream": stream})
        assert (response.status, b"output_text" in response.body) == (200, False)
    assert client.ask(path="/v1/embeddings", payload=asked).json["data"] == []


@pytest.mark.parametrize("kind", ["cut_stream", "stream_reset"])
def test_faults_of_streams_do_not_affect_plain_answers(faulty, dial, kind):
    assert dial(faulty(kind)).ask().json["choices"]


# ---------------------------------------------------------------- streams


def deltas(events):
    return [json.loads(event)["choices"][0]["delta"] for event in events if event != b"[DONE]"]


def text_of(events):
    return "".join(delta.get("content", "") for delta in deltas(events))


def test_a_good_stream_has_role_text_finish_reason_and_done(stormbreak_provider, dial):
    provider = stormbreak_provider("[provider]\nservice = 0.3\nvariation = 0\nprefill = 0.5")
    client = dial(provider)
    response = client.ask(payload=STREAM)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert deltas(response.events)[0] == {"role": "assistant", "content": ""}
    assert text_of(response.events) == answer_text(CHAT)
    assert json.loads(response.events[-2])["choices"][0]["finish_reason"] == "stop"
    assert response.events[-1] == b"[DONE]"
    assert not any(b"usage" in event for event in response.events)
    assert response.times[0] > 0.14, "the first token comes after the prefill"
    assert len(response.times) > 3, "the words come one by one"
    assert client.ask().json["choices"][0]["message"]["content"] == answer_text(CHAT)


def test_a_stream_reports_its_usage_on_request(stormbreak_provider, dial):
    payload = {**STREAM, "stream_options": {"include_usage": True}}
    response = dial(stormbreak_provider("calm", speed=1000)).ask(payload=payload)
    last = json.loads(response.events[-2])
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] > 0


@plays("cut_stream")
def test_cut_stream_ends_the_body_without_finish_reason_and_done(faulty, dial):
    response = dial(faulty("cut_stream")).ask(payload=STREAM)
    assert (response.status, response.ending) == (200, "open")
    assert response.body.endswith(b"0\r\n\r\n")
    assert text_of(response.events)
    assert b"[DONE]" not in response.body
    assert b'"stop"' not in response.body


@plays("stream_reset")
@pytest.mark.parametrize("service", [0.0, 0.1])
def test_stream_reset_resets_the_connection_in_a_stream(faulty, dial, service):
    response = dial(faulty("stream_reset", service=service)).ask(payload=STREAM)
    assert (response.status, response.ending) == (200, "reset")
    assert b"data: " in response.body
    assert b"[DONE]" not in response.body


def test_cut_body_drops_the_last_chunk_of_a_stream(faulty, dial):
    response = dial(faulty("cut_body")).ask(payload=STREAM)
    assert response.ending == "closed"
    assert b"data: " in response.body
    assert not response.body.endswith(b"0\r\n\r\n")


def test_faults_of_bodies_apply_to_streams(faulty, dial):
    assert dial(faulty("empty_body")).ask(payload=STREAM).body == b"0\r\n\r\n"
    broken = dial(faulty("invalid_json")).ask(payload=STREAM).events[-1]
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken)
    error = dial(faulty("error_in_200")).ask(payload=STREAM).events[-1]
    assert json.loads(error)["error"]["code"] == 502


@pytest.mark.parametrize("kind", ["slow_headers", "slow_body"])
def test_slow_faults_delay_a_whole_stream(faulty, dial, kind):
    provider = faulty(kind, "added_latency = 0.2")
    response = dial(provider).ask(payload=STREAM)
    assert response.times[-1] > 0.15
    assert text_of(response.events) == answer_text(CHAT)
    assert response.events[-1] == b"[DONE]"
    assert provider.stats()["keys"]["answered"] == 1
