"""The provider as a server: endpoints, connections, statistics of its clients, time."""

import asyncio
import base64
import struct
import time

import aiohttp
import pytest

from stormbreak.testing import answer_text

from .conftest import CHAT, request_bytes


def chat(place):
    return {"model": "m", "messages": [{"role": "user", "content": f"row {place}"}]}


@pytest.fixture
def calm(stormbreak_provider):
    return stormbreak_provider("calm", speed=1000)


# ---------------------------------------------------------------- endpoints


def test_an_answer_depends_on_its_request_and_never_repeats_the_prompt(calm, dial):
    canary = {"model": "m", "messages": [{"role": "user", "content": "canary-7f3a"}]}
    response = dial(calm).ask(payload=canary)
    assert (
        response.json["choices"][0]["message"]["content"]
        == answer_text(canary)
        != answer_text(CHAT)
    )
    assert response.json["choices"][0]["finish_reason"] == "stop"
    assert response.json["model"] == "m"
    usage = response.json["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert b"canary" not in response.body
    assert answer_text(canary) == answer_text(dict(reversed(canary.items())))


def test_embeddings_are_numbers_or_base64(calm, dial):
    client = dial(calm)
    payload = {"model": "e", "input": ["a", "b"], "dimensions": 3}
    plain = client.ask(path="/v1/embeddings", payload=payload).json
    packed = client.ask(
        path="/v1/embeddings", payload={**payload, "encoding_format": "base64"}
    ).json
    assert [item["index"] for item in plain["data"]] == [0, 1]
    assert len(plain["data"][0]["embedding"]) == 3
    assert plain["usage"]["prompt_tokens"] > 0
    assert len(struct.unpack("3f", base64.b64decode(packed["data"][1]["embedding"]))) == 3


def test_models_are_listed(calm, dial):
    response = dial(calm).ask(method="GET", path="/v1/models", payload=None)
    assert [item["id"] for item in response.json["data"]] == ["storm-1", "storm-1-mini"]


@pytest.mark.parametrize(
    ("info", "status", "code"),
    [
        ({"path": "/v2/chat"}, 404, "unknown_url"),
        ({"method": "GET", "payload": None}, 405, "method_not_allowed"),
        ({"path": "/v1/models"}, 405, "method_not_allowed"),
        ({"payload": []}, 400, None),
        ({"payload": {"messages": [{}]}}, 400, None),
        ({"payload": {"model": "m", "messages": []}}, 400, None),
        ({"payload": {"model": "m"}, "path": "/v1/embeddings"}, 400, None),
    ],
)
def test_an_invalid_request_gets_an_error_and_keeps_the_connection(calm, dial, info, status, code):
    client = dial(calm)
    response = client.ask(**info)
    assert response.status == status
    assert response.json["error"]["code"] == code
    assert client.ask().status == 200


def test_a_key_is_required_if_the_scenario_requires_one(stormbreak_provider, dial):
    client = dial(stormbreak_provider("[provider]\nservice = 0\nrequire_key = true"))
    assert client.ask().status == 401
    assert client.ask(method="GET", path="/v1/models", payload=None).status == 401
    assert client.ask(method="GET", path="/_provider/stats", payload=None).status == 200
    assert client.ask(headers=["authorization: Bearer k"]).status == 200


# ---------------------------------------------------------------- connections


def test_pipelined_requests_are_answered_in_order(calm, dial):
    client = dial(calm)
    client.send(b"".join(request_bytes(payload=chat(place)) for place in range(3)))
    data = b""
    while data.count(b"HTTP/1.1 200") < 3 or not data.endswith(b"}"):
        data += client.sock.recv(65536)
    found = [data.find(answer_text(chat(place)).encode()) for place in range(3)]
    assert -1 not in found
    assert found == sorted(found)


def test_an_ambiguous_request_gets_a_400_and_closes_the_connection(calm, dial):
    start = b"POST /v1/chat/completions HTTP/1.1\r\n"
    host, chunked, end = b"host: h\r\n", b"transfer-encoding: chunked\r\n", b"\r\n"
    chunk = b"\r\nhello\r\n0\r\n\r\n"
    requests = {
        "a chunk size with 0x": start + host + chunked + end + b"0x5" + chunk,
        "LF in a chunk extension": start + host + chunked + end + b"5;a\nb" + chunk,
        "NUL in a value": start + host + b"a: b\x00c\r\n" + end,
        "bare CR in a value": start + host + b"a: b\rc\r\n" + end,
        "bare LF in a value": start + host + b"a: b\nc: d\r\n" + end,
        "a vertical tab before chunked": start + host + b"transfer-encoding: \x0bchunked\r\n" + end,
        "no Host": start + b"content-length: 0\r\n" + end,
        "two Hosts": start + host + b"host: other\r\n" + end,
    }
    clients = {name: dial(calm) for name in requests}
    for name, request in requests.items():
        clients[name].send(request)
    for name, client in clients.items():
        received, ending = client.everything(patience=5.0)
        assert received.startswith(b"HTTP/1.1 400 "), name
        assert ending == "closed", name


def test_a_request_after_connection_close_is_not_answered(calm, dial):
    client = dial(calm)
    client.send(request_bytes(headers=["connection: close"]) + request_bytes())
    received, ending = client.everything(patience=5.0)
    assert received.count(b"HTTP/1.1 ") == received.count(b"HTTP/1.1 200 ") == 1
    assert ending == "closed"


def test_a_malformed_request_gets_an_error_and_the_connection_ends(calm, dial):
    client = dial(calm)
    client.send(b"NONSENSE\r\n\r\n")
    response = client.read_response()
    assert response.status == 400
    assert "the request line must be" in response.json["error"]["message"]
    assert client.closed()


def test_a_body_too_large_is_rejected_before_it_is_sent(calm, dial):
    client = dial(calm)
    client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-length: 300000000\r\n\r\n"
    )
    assert client.read_response().status == 413


def test_expect_100_continue_is_answered(calm, dial):
    client = dial(calm)
    whole = request_bytes(headers=["expect: 100-continue"])
    split = whole.index(b"\r\n\r\n") + 4
    client.send(whole[:split])
    assert client.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(whole[split:])
    assert client.read_response().status == 200


def test_a_client_may_request_connection_close(calm, dial):
    client = dial(calm)
    assert client.ask(headers=["connection: close"]).status == 200
    assert client.closed()


# ---------------------------------------------------------------- statistics


def test_statistics_are_served_over_http(calm, dial):
    client = dial(calm)
    client.ask()
    response = client.ask(method="GET", path="/_provider/stats", payload=None)
    assert response.json["arrivals"] == 1
    assert response.json["clients"]["outcomes"] == {"ok": 1}
    assert response.json["background_traffic"]["arrivals"] == 0


def test_work_for_a_client_that_leaves_counts_as_wasted(stormbreak_provider, dial, eventually):
    provider = stormbreak_provider("[provider]\nservice = 0.5\nvariation = 0")
    client = dial(provider)
    client.send(request_bytes())
    eventually(lambda: provider.stats()["in_service"] == 1)
    client.sock.close()
    eventually(lambda: provider.stats()["clients"]["outcomes"] == {"wasted": 1})
    clients = provider.stats()["clients"]
    assert (clients["abandoned"], clients["wasted_seconds"]) == (1, 0.5)


def test_a_client_that_leaves_after_a_whole_stream_abandons_nothing(
    stormbreak_provider, dial, eventually
):
    provider = stormbreak_provider("[provider]\nservice = 0.05\nvariation = 0\nprefill = 0")
    for place in range(10):
        client = dial(provider)
        client.ask(payload={**chat(place), "stream": True})
        client.sock.close()
    eventually(lambda: provider.stats()["clients"]["outcomes"] == {"ok": 10})


def test_repeated_answers_and_idempotency_keys_are_counted(calm, dial):
    client = dial(calm)
    for _ in range(2):
        client.ask(headers=["idempotency-key: once"])
    client.ask(payload=chat(1))
    stats = calm.stats()
    assert stats["keys"] == {
        "asked": 2,
        "answered": 2,
        "answered_twice": 1,
        "answers": 3,
        "max_attempts": 2,
    }
    assert stats["idempotency"] == {"keys": 1, "repeats": 1}


@pytest.mark.parametrize("form", ["seconds", "ms", "date"])
def test_a_retry_before_the_named_time_counts_as_early(faulty, dial, form):
    provider = faulty("429", f'retry_after = 5\nretry_after_form = "{form}"')
    client, other = dial(provider), dial(provider)
    client.ask()
    assert other.ask(payload=chat(1)).status, "another request is not an early retry"
    assert provider.stats()["early"] == 0
    other.ask()
    stats = provider.stats()
    assert stats["early"] == 1
    [example] = stats["early_examples"]
    assert (example["promised_on"], example["arrived_on"]) == (1, 2)
    assert example["by"] > 0


def test_a_retry_at_the_named_time_is_not_early(faulty, dial):
    provider = faulty("429", 'retry_after = 0.05\nretry_after_form = "ms"\nuntil = 0.06')
    client = dial(provider)
    wait = int(client.ask().headers["retry-after-ms"]) / 1000
    time.sleep(wait)
    assert client.ask().status == 200
    assert provider.stats()["early"] == 0
    assert provider.stats()["retry_after"] == {"ms": 1}


# ---------------------------------------------------------------- time


def test_time_begins_with_the_first_request_and_again_after_a_reset(faulty, dial):
    provider = faulty("503", "until = 0.1")
    client = dial(provider)
    time.sleep(0.15)
    client.ask(method="GET", path="/v1/models", payload=None)
    assert provider.stats()["time"] == 0
    assert client.ask().status == 503
    time.sleep(0.15)
    assert client.ask().status == 200
    assert client.ask(path="/_provider/reset", payload=None).json == {"reset": True}
    assert provider.stats()["arrivals"] == 0
    assert client.ask().status == 503


def test_a_reset_closes_waiting_connections(faulty, dial, eventually):
    provider = faulty("hang")
    client = dial(provider)
    client.send(request_bytes())
    eventually(lambda: provider.stats()["waiting"] == 1)
    provider.reset()
    assert client.closed()
    assert provider.stats()["waiting"] == 0


def test_background_traffic_continues_without_clients(stormbreak_provider, dial):
    provider = stormbreak_provider("[provider]\nservice = 0\n[background_traffic]\nrate = 1000")
    dial(provider).ask()
    time.sleep(0.3)
    assert provider.stats()["background_traffic"]["arrivals"] > 100


async def test_a_client_that_retries_gets_every_answer_under_chaos(stormbreak_provider):
    provider = stormbreak_provider("chaos", seed=3, speed=200)
    timeout = aiohttp.ClientTimeout(total=0.5)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        texts = await asyncio.gather(*(insist(session, provider, place) for place in range(60)))
    assert texts == [answer_text(chat(place)) for place in range(60)]
    stats = provider.stats()
    assert stats["keys"]["asked"] == 60
    assert stats["arrivals"] > 60


async def insist(session, provider, place):
    for _ in range(30):
        try:
            async with session.post(
                f"{provider.base_url}/chat/completions", json=chat(place)
            ) as response:
                answer = await response.json()
                return answer["choices"][0]["message"]["content"]
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
            await asyncio.sleep(0.01)
    pytest.fail(f"row {place} was never answered")


@pytest.mark.parametrize("runs", [2])
async def test_a_seed_gives_equal_requests_the_same_faults(stormbreak_provider, runs):
    seen = []
    for _ in range(runs):
        provider = stormbreak_provider("[[faults]]\nkind = '503'\nshare = 0.5", speed=1000, seed=9)
        async with aiohttp.ClientSession() as session:
            seen.append(await asyncio.gather(*(status(session, provider, p) for p in range(40))))
    assert seen[0] == seen[1]
    assert set(seen[0]) == {200, 503}


async def status(session, provider, place):
    async with session.post(f"{provider.base_url}/chat/completions", json=chat(place)) as response:
        return response.status
