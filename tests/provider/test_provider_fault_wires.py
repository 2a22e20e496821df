"""The bytes of every fault in a connection or in the framing of a response, read by a raw client."""

import gzip
import json
import time
import zlib

import pytest

from stormbreak.provider.faults import connections
from stormbreak.testing import answer_text

from .conftest import CHAT, STREAM, body_of, plays, request_bytes, text_in

OTHER = {"model": "m", "messages": [{"role": "user", "content": "something else"}]}


def cut_first(data):
    """Split the first response, by its length, from the bytes after it."""
    head, _, rest = data.partition(b"\r\n\r\n")
    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + b"\r\n\r\n" + rest[:length], rest[length:]


@plays("stale")
def test_stale_sends_the_answer_to_the_previous_call(faulty, dial):
    client = dial(faulty("stale", "requests = [2]"))
    assert client.ask(payload=OTHER).json["choices"][0]["message"]["content"] == answer_text(OTHER)
    assert client.ask().json["choices"][0]["message"]["content"] == answer_text(OTHER)
    assert client.ask().json["choices"][0]["message"]["content"] == answer_text(CHAT)


@plays("stale")
def test_stale_sends_a_wrong_answer_even_to_a_repeated_request(played):
    assert text_in(played("stale")[0]) != answer_text(CHAT)


@plays("stale")
def test_stale_sends_the_canned_answer_of_the_previous_request(stormbreak_provider, dial):
    provider = stormbreak_provider(
        '[provider]\nservice = 0\n[[faults]]\nkind = "stale"\nrequests = [2, 3]\n',
        answers={"else": "other", "": "mine"},
    )
    client = dial(provider)
    payloads = (OTHER, CHAT, {**CHAT, "temperature": 0})
    first, second, third = (
        client.ask(payload=each).json["choices"][0]["message"]["content"] for each in payloads
    )
    assert (first, second) == ("other", "other")
    assert third == answer_text(CHAT)  # the previous answer would be the right one


@plays("interim")
def test_interim_sends_1xx_responses_before_the_answer(played):
    data, _ = played("interim")
    assert data.startswith(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n")
    assert text_in(data[data.index(b"HTTP/1.1 200") :]) == answer_text(CHAT)


@plays("twice")
def test_twice_sends_two_answers_in_one_write(played):
    first, second = cut_first(played("twice")[0])
    assert text_in(first) == answer_text(CHAT)
    assert second.startswith(b"HTTP/1.1 200 ")
    assert text_in(second) != answer_text(CHAT)


@plays("unasked")
def test_unasked_sends_a_second_answer_on_the_idle_connection(faulty, dial):
    client = dial(faulty("unasked", "respond_after = 0.03"))
    start = time.monotonic()
    assert client.ask().json["choices"][0]["message"]["content"] == answer_text(CHAT)
    late = client.read_response()
    assert time.monotonic() - start >= 0.03
    assert late.status == 200
    assert late.json["choices"][0]["message"]["content"] != answer_text(CHAT)


@plays("unasked")
def test_unasked_sends_no_second_answer_after_the_next_request(faulty, dial):
    client = dial(faulty("unasked", "requests = [1]\nrespond_after = 0.2"))
    for _ in range(2):
        assert client.ask().json["choices"][0]["message"]["content"] == answer_text(CHAT)
    assert client.everything(0.3) == (b"", "silent")


@plays("quiet_close")
def test_quiet_close_ends_the_connection_without_announcing_it(faulty, dial):
    client = dial(faulty("quiet_close", "respond_after = 0.03"))
    response = client.ask()
    assert response.json["choices"]
    assert "connection" not in response.headers
    assert client.everything(1.0) == (b"", "closed")


@plays("close_race")
def test_close_race_ends_the_connection_at_the_next_request(faulty, dial):
    provider = faulty("close_race")
    client = dial(provider)
    assert client.ask().json["choices"]
    assert client.everything(0.1) == (b"", "silent")
    client.send(request_bytes())
    assert client.everything()[1] in {"closed", "reset"}
    assert provider.stats()["arrivals"] == 1


@plays("short_length")
def test_short_length_declares_too_few_bytes(played):
    first, rest = cut_first(played("short_length")[0])
    with pytest.raises(json.JSONDecodeError):
        text_in(first)
    assert text_in(first + rest) == answer_text(CHAT)


@plays("long_length")
def test_long_length_declares_too_many_bytes(played):
    data, ending = played("long_length", first=b"\r\n\r\n{")
    assert ending == "silent"
    assert text_in(data) == answer_text(CHAT)
    assert int(data.split(b"content-length: ")[1].split(b"\r\n")[0]) == len(body_of(data)) + 40


@plays("long_header")
def test_long_header_sends_a_header_line_of_over_a_megabyte(played):
    data, _ = played("long_header")
    assert max(map(len, data.split(b"\r\n"))) > 1_000_000
    assert text_in(data) == answer_text(CHAT)


@plays("endless_headers")
def test_endless_headers_sends_headers_without_an_end(played):
    data, ending = played("endless_headers", max_bytes=300_000)
    assert ending == "endless"
    assert b"\r\n\r\n" not in data


@plays("endless_body")
@pytest.mark.parametrize("payload", [CHAT, STREAM])
def test_endless_body_sends_a_body_without_an_end(played, payload):
    data, ending = played("endless_body", payload, max_bytes=2_000_000)
    assert ending == "endless"
    assert b"transfer-encoding: chunked" in data
    assert answer_text(CHAT).split()[0].encode() in data
    assert b"0\r\n\r\n" not in data


@plays("gzip_lie")
def test_gzip_lie_sends_plain_text_as_gzip(played):
    data, _ = played("gzip_lie")
    assert b"content-encoding: gzip" in data
    assert text_in(data) == answer_text(CHAT)


@plays("gzip_cut")
def test_gzip_cut_sends_truncated_gzip(played):
    data, _ = played("gzip_cut")
    assert len(cut_first(data)[1]) == 0
    with pytest.raises(EOFError):
        gzip.decompress(body_of(data))


@plays("gzip_bomb")
@pytest.mark.parametrize("payload", [CHAT, STREAM])
def test_gzip_bomb_sends_a_valid_answer_with_huge_padding(faulty, dial, payload):
    response = dial(faulty("gzip_bomb")).ask(payload=payload)
    assert response.headers["content-encoding"] == "gzip"
    packed = response.body
    assert len(packed) * 500 < connections.BOMB
    unpacker = zlib.decompressobj(wbits=31)
    size, end, rest = 0, b"", packed
    while more := unpacker.decompress(rest, 1 << 24):
        size, end, rest = size + len(more), more[-10_000:], unpacker.unconsumed_tail
    assert size > connections.BOMB
    assert unpacker.eof, "checksum and length are right"
    assert answer_text(CHAT).split()[0].encode() in end


def test_early_answer_responds_before_the_request_is_complete(faulty, dial):
    provider = faulty("early_answer")
    client = dial(provider)
    whole = request_bytes()
    split = whole.index(b"\r\n\r\n") + 10
    client.send(whole[:split])
    early = client.read_response()
    assert early.status == 200
    assert early.json["choices"][0]["message"]["content"] != answer_text(CHAT)
    client.send(whole[split:])
    assert client.everything(0.1) == (b"", "silent")
    assert client.ask().json["choices"][0]["message"]["content"] == answer_text(CHAT)
    assert provider.stats()["faults"]["early_answer"] == 1
    assert provider.stats()["arrivals"] == 1
