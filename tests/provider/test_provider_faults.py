"""Every fault of bodies, streams and connections, as its bytes come: seen by a client that reads no HTTP."""

import gzip
import json
import zlib
from itertools import repeat

import pytest

from stormbreak.provider.connection import Connection
from stormbreak.provider.faults import bodies, streams, wires
from stormbreak.provider.scripts import Ending, Piece, Script
from stormbreak.testing import answer_text

from .conftest import CHAT, request_bytes, unchunk

STREAM = {**CHAT, "stream": True}
CLAUDE = {**CHAT, "max_tokens": 100, "stream": True}
ASKED = {"model": "m", "input": "tell me", "stream": True}
OTHER = {"model": "m", "messages": [{"role": "user", "content": "something else"}]}
VERSION = ["anthropic-version: 2023-06-01"]
PATHS = [
    ("/v1/chat/completions", STREAM, []),
    ("/v1/responses", ASKED, []),
    ("/v1/messages", CLAUDE, VERSION),
]


@pytest.fixture
def played(trouble, dial):
    """Play a kind to one request; return all bytes and how the connection ended."""

    def play(kind, payload=CHAT, *, extra="", patience=0.3, most=1 << 40, **more):
        client = dial(trouble(kind, extra))
        client.send(request_bytes(payload=payload, **more))
        return client.everything(patience, most)

    return play


def body_of(data):
    """What stands behind the head; unframed where it is in chunks."""
    head, _, body = data.partition(b"\r\n\r\n")
    return unchunk(body) if b"transfer-encoding: chunked" in head else body


def said_in(data):
    """The text of a plain answer."""
    return json.loads(body_of(data))["choices"][0]["message"]["content"]


def words_in(events):
    """The text of the events of a chat completion, whatever ends their lines."""
    text = ""
    for line in events.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        if line.startswith(b"data: {"):
            text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
    return text


PLAYED = {  # by the tests here, and those of test_provider_wire.py
    *("slow_headers", "slow_body", "cut_body", "empty_body", "invalid_json", "error_in_200"),
    *("cut_stream", "stream_reset"),
}


def plays(kind):
    """Note that a test plays this kind."""
    PLAYED.add(kind)
    return lambda test: test


def test_every_fault_is_tested():
    assert {kind.value for kind in bodies.FAULTS | streams.FAULTS | wires.FAULTS} == PLAYED


# ---------------------------------------------------------------- bodies


@plays("stall")
def test_half_an_answer_and_silence(played):
    data, ending = played("stall")
    assert ending == "silent"
    assert b" 200 " in data
    assert len(body_of(data)) > 0
    with pytest.raises(json.JSONDecodeError):
        json.loads(body_of(data))


@plays("stall_early")
def test_a_head_and_silence(played):
    data, ending = played("stall_early")
    assert (body_of(data), ending) == (b"", "silent")
    assert b"content-length: " in data


@plays("html_200")
@pytest.mark.parametrize("payload", [CHAT, STREAM])
def test_a_page_in_place_of_an_answer(played, payload):
    data, _ = played("html_200", payload)
    assert data.startswith(b"HTTP/1.1 200 ")
    assert b"content-type: text/html" in data
    assert body_of(data).startswith(b"<!doctype html>")


@plays("big_body")
def test_four_megabytes_are_good(played):
    data, _ = played("big_body")
    assert said_in(data) == answer_text(CHAT)
    assert len(data) > 4 * 1024 * 1024
    data, _ = played("big_body", STREAM)
    assert words_in(body_of(data)) == answer_text(CHAT)
    assert len(data) > 4 * 1024 * 1024


@plays("tiny_chunks")
def test_seven_bytes_at_a_time_are_good(played):
    data, _ = played("tiny_chunks")
    assert said_in(data) == answer_text(CHAT)
    assert b"\r\n7\r\n" in data
    data, _ = played("tiny_chunks", STREAM)
    assert words_in(body_of(data)) == answer_text(CHAT)
    assert body_of(data).endswith(b"data: [DONE]\n\n")


# ---------------------------------------------------------------- streams, in each format


@plays("stall")
@pytest.mark.parametrize(("path", "payload", "headers"), PATHS)
def test_a_stream_stalls_after_some_words(played, path, payload, headers):
    data, ending = played("stall", payload, path=path, headers=headers)
    assert ending == "silent"
    first = answer_text(payload).split(" ")[0]
    assert first.encode() in data
    assert not data.endswith(b"0\r\n\r\n")


@plays("stall_early")
@pytest.mark.parametrize(("path", "payload", "headers"), PATHS)
def test_a_stream_stalls_before_the_first_word(played, path, payload, headers):
    data, ending = played("stall_early", payload, path=path, headers=headers)
    assert ending == "silent"
    assert b"data: " in data
    assert b"Answer" not in data


@plays("error_early")
@pytest.mark.parametrize(("path", "payload", "headers"), PATHS)
def test_an_error_before_the_first_word(played, path, payload, headers):
    data, _ = played("error_early", payload, path=path, headers=headers)
    assert b"Answer" not in data
    *_, last = body_of(data).rstrip().split(b"\n")
    said = json.loads(last[6:])
    assert "error" in (said, said.get("type")) or "error" in said
    assert data.endswith(b"0\r\n\r\n")


@plays("no_done")
@pytest.mark.parametrize(
    ("place", "missing"), [(0, b"[DONE]"), (1, b"response.completed"), (2, b"message_stop")]
)
def test_all_but_the_end_marker(played, place, missing):
    path, payload, headers = PATHS[place]
    data, _ = played("no_done", payload, path=path, headers=headers)
    assert missing not in data
    assert b'"stop"' in data or b"output_item.done" in data or b'"end_turn"' in data
    assert data.endswith(b"0\r\n\r\n")


@plays("heartbeats")
def test_nothing_but_signs_of_life(played):
    data, ending = played("heartbeats", STREAM, most=1500)
    assert ending == "endless"
    assert data.count(b": PROCESSING\n\n") > 5
    assert b"Answer" not in data


@plays("endless_line")
def test_a_line_without_an_end(played):
    data, ending = played("endless_line", STREAM, most=3 * 1024 * 1024)
    assert ending == "endless"
    *_, line = data.split(b"data: ")
    assert line.count(b".") > 2_000_000
    assert b"\n" not in line.replace(b"\r\n", b""), "but for the frames of chunks"


@plays("comments")
def test_comments_between_the_events(played):
    body = body_of(played("comments", STREAM)[0])
    assert body.count(b": PROCESSING\n\n") > 5
    assert words_in(body) == answer_text(CHAT)
    assert b"data: [DONE]" in body


@plays("crlf")
@plays("cr")
@pytest.mark.parametrize(("kind", "end", "other"), [("crlf", b"\r\n", None), ("cr", b"\r", b"\n")])
def test_other_line_ends(played, kind, end, other):
    body = body_of(played(kind, STREAM)[0])
    assert body.endswith(b"data: [DONE]" + end * 2)
    assert other is None or other not in body
    assert words_in(body) == answer_text(CHAT)


# ---------------------------------------------------------------- connections


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
    client = dial(trouble("unasked", "after = 0.03"))
    assert client.ask().json["choices"][0]["message"]["content"] == answer_text(CHAT)
    late = client.hear()
    assert late.times[0] > 0.02
    assert late.status == 200
    assert late.json["choices"][0]["message"]["content"] != answer_text(CHAT)


@plays("unasked")
def test_nothing_unasked_comes_once_the_next_request_has(trouble, dial):
    client = dial(trouble("unasked", "requests = [1]\nafter = 0.2"))
    for _ in range(2):
        assert client.ask().json["choices"][0]["message"]["content"] == answer_text(CHAT)
    assert client.everything(0.3) == (b"", "silent")


@plays("quiet_close")
def test_a_connection_ends_though_nothing_announced_it(trouble, dial):
    client = dial(trouble("quiet_close", "after = 0.03"))
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
def test_what_is_said_to_be_gzip_and_is_not(played):
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
    assert len(packed) * 500 < wires.BOMB
    unpacker = zlib.decompressobj(wbits=31)
    size, end, rest = 0, b"", packed
    while more := unpacker.decompress(rest, 1 << 24):
        size, end, rest = size + len(more), more[-10_000:], unpacker.unconsumed_tail
    assert size > wires.BOMB
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
    assert provider.stats()["troubles"]["early_answer"] == 1
    assert provider.stats()["arrivals"] == 1


@pytest.mark.parametrize("kind", ["stall", "stall_early", "long_length"])
def test_who_waits_for_the_rest_of_an_answer_is_told_nothing_else(trouble, dial, kind):
    client = dial(trouble(kind, "requests = [1]"))
    client.send(request_bytes())
    assert client.everything(0.1)[1] == "silent"
    client.send(request_bytes())
    assert client.everything(0.1) == (b"", "silent")


class Narrow:
    """A transport that takes three writes, and then says that the client does not read."""

    def __init__(self):
        self.written = []
        self.full = None

    def write(self, data):
        self.written.append(data)
        assert len(self.written) < 10, "it is never held up"
        if len(self.written) % 3 == 0:
            self.full()


class Nobody:
    """A desk that is called by one connection only."""

    def opened(self, _):
        return 1


def test_what_is_never_read_fills_nothing():
    connection, transport = Connection(Nobody()), Narrow()
    transport.full = connection.pause_writing
    connection.connection_made(transport)
    endless = Script(repeat(Piece(0, b"more")), Ending.KEEP, 200)

    connection.play(endless, keep_alive=True, done=None)
    assert len(transport.written) == 3
    connection.resume_writing()
    assert len(transport.written) == 6


def test_only_good_answers_count(trouble, dial):
    for kind, good in [("twice", 1), ("interim", 1), ("stale", 0), ("gzip_cut", 0), ("crlf", 1)]:
        provider = trouble(kind)
        client = dial(provider)
        client.send(request_bytes(payload=STREAM))
        client.everything(0.1)
        assert provider.stats()["keys"]["answered"] == good, kind
