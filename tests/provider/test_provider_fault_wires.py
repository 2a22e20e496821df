"""Every fault of connections and of what frames an answer: seen by a client that reads no HTTP."""

import gzip
import json
import time
import zlib

import pytest

from stormbreak.provider.faults import connections
from stormbreak.testing import answer_text

from .conftest import CHAT, STREAM, body_of, plays, request_bytes, said_in

OTHER = {"model": "m", "messages": [{"role": "user", "content": "something else"}]}


def cut_first(data):
    """Cut the first answer, by its length, from what comes behind it."""
    head, _, rest = data.partition(b"\r\n\r\n")
    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + b"\r\n\r\n" + rest[:length], rest[length:]


@plays("stale")
def test_the_answer_to_the_call_before(trouble, dial):
    client = dial(trouble("stale", "requests = [2]"))
    assert client.ask(payload=OTHER).json["choices"][0]["message"]["content"] == answer_text(OTHER)
    assert client.ask().json["choices"][0]["message"]["content"] == answer_text(OTHER)
    assert client.ask().json["choices"][0]["message"]["content"] == answer_text(CHAT)


@plays("stale")
def test_a_stale_answer_is_wrong_even_for_the_same_request_again(played):
    assert said_in(played("stale")[0]) != answer_text(CHAT)


@plays("stale")
def test_a_stale_answer_is_chosen_as_that_of_the_request_before(stormbreak_provider, dial):
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
    assert third == answer_text(CHAT)  # the same answer would not be wrong


@plays("interim")
def test_interim_answers_come_before(played):
    data, _ = played("interim")
    assert data.startswith(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n")
    assert said_in(data[data.index(b"HTTP/1.1 200") :]) == answer_text(CHAT)


@plays("twice")
def test_two_answers_in_one_write(played):
    first, second = cut_first(played("twice")[0])
    assert said_in(first) == answer_text(CHAT)
    assert second.startswith(b"HTTP/1.1 200 ")
    assert said_in(second) != answer_text(CHAT)


@plays("unasked")
def test_a_second_answer_while_nothing_is_asked(trouble, dial):
    client = dial(trouble("unasked", "respond_after = 0.03"))
    start = time.monotonic()
    assert client.ask().json["choices"][0]["message"]["content"] == answer_text(CHAT)
    late = client.hear()
    assert time.monotonic() - start >= 0.03
    assert late.status == 200
    assert late.json["choices"][0]["message"]["content"] != answer_text(CHAT)


@plays("unasked")
def test_nothing_unasked_comes_once_the_next_request_has(trouble, dial):
    client = dial(trouble("unasked", "requests = [1]\nrespond_after = 0.2"))
    for _ in range(2):
        assert client.ask().json["choices"][0]["message"]["content"] == answer_text(CHAT)
    assert client.everything(0.3) == (b"", "silent")


@plays("quiet_close")
def test_a_connection_ends_though_nothing_announced_it(trouble, dial):
    client = dial(trouble("quiet_close", "respond_after = 0.03"))
    heard = client.ask()
    assert heard.json["choices"]
    assert "connection" not in heard.headers
    assert client.everything(1.0) == (b"", "closed")


@plays("close_race")
def test_a_connection_ends_as_the_next_request_comes(trouble, dial):
    provider = trouble("close_race")
    client = dial(provider)
    assert client.ask().json["choices"]
    assert client.everything(0.1) == (b"", "silent")
    client.send(request_bytes())
    assert client.everything()[1] in {"closed", "reset"}
    assert provider.stats()["arrivals"] == 1


@plays("short_length")
def test_a_length_that_is_too_short(played):
    first, rest = cut_first(played("short_length")[0])
    with pytest.raises(json.JSONDecodeError):
        said_in(first)
    assert said_in(first + rest) == answer_text(CHAT)


@plays("long_length")
def test_a_length_that_is_too_long(played):
    data, ending = played("long_length")
    assert ending == "silent"
    assert said_in(data) == answer_text(CHAT)
    assert int(data.split(b"content-length: ")[1].split(b"\r\n")[0]) == len(body_of(data)) + 40


@plays("long_header")
def test_a_header_line_that_is_too_long(played):
    data, _ = played("long_header")
    assert max(map(len, data.split(b"\r\n"))) > 1_000_000
    assert said_in(data) == answer_text(CHAT)


@plays("endless_headers")
def test_headers_without_an_end(played):
    data, ending = played("endless_headers", most=300_000)
    assert ending == "endless"
    assert b"\r\n\r\n" not in data


@plays("endless_body")
@pytest.mark.parametrize("payload", [CHAT, STREAM])
def test_a_body_without_an_end(played, payload):
    data, ending = played("endless_body", payload, most=2_000_000)
    assert ending == "endless"
    assert b"transfer-encoding: chunked" in data
    assert answer_text(CHAT).split()[0].encode() in data
    assert b"0\r\n\r\n" not in data


@plays("gzip_lie")
def test_a_false_gzip_encoding(played):
    data, _ = played("gzip_lie")
    assert b"content-encoding: gzip" in data
    assert said_in(data) == answer_text(CHAT)


@plays("gzip_cut")
def test_gzip_that_ends_early(played):
    data, _ = played("gzip_cut")
    assert len(cut_first(data)[1]) == 0
    with pytest.raises(EOFError):
        gzip.decompress(body_of(data))


@plays("gzip_bomb")
@pytest.mark.parametrize("payload", [CHAT, STREAM])
def test_a_bomb_is_a_good_answer_and_much_of_nothing(trouble, dial, payload):
    heard = dial(trouble("gzip_bomb")).ask(payload=payload)
    assert heard.headers["content-encoding"] == "gzip"
    packed = heard.body
    assert len(packed) * 500 < connections.BOMB
    unpacker = zlib.decompressobj(wbits=31)
    size, end, rest = 0, b"", packed
    while more := unpacker.decompress(rest, 1 << 24):
        size, end, rest = size + len(more), more[-10_000:], unpacker.unconsumed_tail
    assert size > connections.BOMB
    assert unpacker.eof, "its check and its length are right"
    assert answer_text(CHAT).split()[0].encode() in end


def test_an_answer_before_the_request_was_whole(trouble, dial):
    provider = trouble("early_answer")
    client = dial(provider)
    whole = request_bytes()
    split = whole.index(b"\r\n\r\n") + 10
    client.send(whole[:split])
    early = client.hear()
    assert early.status == 200
    assert early.json["choices"][0]["message"]["content"] != answer_text(CHAT)
    client.send(whole[split:])
    assert client.everything(0.1) == (b"", "silent")
    assert client.ask().json["choices"][0]["message"]["content"] == answer_text(CHAT)
    assert provider.stats()["faults"]["early_answer"] == 1
    assert provider.stats()["arrivals"] == 1
