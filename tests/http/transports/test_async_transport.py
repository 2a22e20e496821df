"""The async transport under each HTTP library: requests that pass through, keys, inner transports, settings."""

import asyncio
import gzip
import json
import os
import ssl
import traceback
from importlib import import_module

import httpx2
import pytest
from canary import KEY, PROMPT, assert_clean
from sdk_clients import ONCE, QUICK, in_flight, until
from sockets import End, answer, failing, served

from stormbreak import ConfigurationError, explain
from stormbreak.core.fallback_policy import Place, ToCache, ToDegraded, ToTargets
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.http.h1 import socket_response as h1_response
from stormbreak.http.transports import wrapped_connection as inner_wire
from stormbreak.httpx2 import AsyncTransport

PAYLOAD = {"model": "m", "messages": [{"role": "user", "content": PROMPT}]}
AUTH = {"authorization": f"Bearer {KEY}"}
EVENTS = {"content_type": "text/event-stream", "content_length": 10**7}
HELLO = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'


@pytest.fixture
def transport(lib):
    """Make a transport for the library."""
    ours = import_module(f"stormbreak.{lib.__name__}")
    return lambda policy=QUICK, **more: ours.AsyncTransport(policy, **more)


@pytest.fixture
def client(lib, transport):
    """Make a client of the library over a transport of ours."""

    def make(policy=QUICK, **more):
        return lib.AsyncClient(transport=transport(policy, **more), headers=AUTH)

    return make


async def test_a_call_is_retried_and_explained(client):
    async with served(failing(503), answer()) as server, client() as http:
        response = await http.post(f"{server.base_url}/chat/completions", json=PAYLOAD)
    assert response.json()["choices"][0]["message"]["content"] == "fine"
    assert response.headers["x-stormbreak-attempts"] == "2"
    assert explain(response).splitlines()[-1].endswith("waited")
    assert "ok after 2 attempt(s)" in explain(response)


async def test_a_compressed_response_is_decompressed(client, stormbreak_provider):
    provider = stormbreak_provider("calm", speed=20)
    async with client() as http:
        response = await http.get(
            f"{provider.base_url}/models", headers={"accept": "application/json"}
        )
    assert response.json()["object"] == "list"
    assert "content-encoding" not in response.headers


async def test_a_lost_connection_raises_the_error_of_the_library(lib, client):
    async with served([End.CLOSE]) as server, client(ONCE) as http:
        with pytest.raises(lib.RemoteProtocolError) as caught:
            await http.post(f"{server.base_url}/chat/completions", json=PAYLOAD)
    shown = "\n".join(traceback.format_exception(caught.value))
    assert "reset" in shown
    assert_clean(shown, "an exception")
    assert_clean(explain(caught.value), "explain")


async def test_a_key_in_a_url_is_sent_and_not_shown(lib, client):
    async with (
        served([End.CLOSE]) as server,
        lib.AsyncClient(transport=client()._transport) as http,
    ):
        url = f"{server.base_url}/chat/completions?key={KEY}"
        with pytest.raises(lib.RemoteProtocolError) as caught:
            await http.post(url, json=PAYLOAD)
        assert KEY in server.requests[0].line
        assert_clean(str(http._transport.snapshot()) + explain(caught.value), "what is shown")


async def test_150_calls_are_in_flight_on_as_many_connections(client):
    async with served([End.HANG]) as server, client() as http:
        url = f"{server.base_url}/chat/completions"
        asking = [asyncio.create_task(http.post(url, json=PAYLOAD)) for _ in range(150)]
        await server.asked(150)
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def test_a_redirect_of_a_call_is_not_followed(client):
    elsewhere = failing(307, location="/v1/elsewhere")
    async with served(elsewhere, answer()) as server, client() as http:
        url = f"{server.base_url}/chat/completions"
        response = await http.post(url, json=PAYLOAD, follow_redirects=True)
    assert response.status_code == 307
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("files", {"files": {"file": ("a.jsonl", b"{}")}, "data": {"purpose": "batch"}}),
        ("images/generations", {"json": PAYLOAD}),
        ("responses", {"json": {"model": "m", "input": PROMPT, "background": True}}),
        ("chat/completions", {"json": PAYLOAD | {"deferred": True}}),
        ("chat/completions", {"json": {"messages": []}}),
        ("chat/completions", {"content": b"{"}),
        ("threads/t/messages", {"json": PAYLOAD}),
    ],
)
async def test_a_request_that_is_not_safe_to_retry_passes_through_once(client, path, sent):
    async with served(failing(500)) as server, client() as http:
        response = await http.post(f"{server.base_url}/{path}", **sent)
        assert http._transport.snapshot()["targets"] == {}
    assert response.status_code == 500
    assert "x-should-retry" not in response.headers
    (request,) = server.requests
    assert len(request.body) == int(request.headers["content-length"]) > 0


async def test_a_download_passes_through_unparsed(client):
    body = b"x" * 300_000
    async with (
        served(answer(body, content_type="application/octet-stream")) as server,
        client() as http,
    ):
        response = await http.get(f"{server.base_url}/files/f/content")
        assert response.content == body
        async with http.stream("GET", f"{server.base_url}/files/f/content") as left:
            assert left.status_code == 200
    assert len(server.requests) == 2


async def test_a_download_may_be_larger_than_an_answer(client, monkeypatch):
    monkeypatch.setattr(h1_response, "BODY_LIMIT", 1000)
    async with served(answer(b"x" * 3000)) as server, client() as http:
        assert len((await http.get(f"{server.base_url}/files/f/content")).content) == 3000


@pytest.mark.parametrize("begun", [b"", answer(b"x", content_length=9)])
async def test_the_read_timeout_applies_to_requests_that_pass_through(lib, client, begun):
    async with served([begun, End.HANG]) as server, client() as http, asyncio.timeout(30):
        with pytest.raises(lib.ReadTimeout):
            await http.get(f"{server.base_url}/files/f/content", timeout=0.2)
        await server.all_closed()


async def test_a_download_keeps_its_content_length_unless_decompressed(client):
    packed = answer(b"", content_encoding="gzip", content_length=999)
    async with (
        served(
            answer(b"x" * 9), packed, answer(gzip.compress(b"y"), content_encoding="gzip")
        ) as server,
        client() as http,
    ):
        url = f"{server.base_url}/files/f/content"
        whole, head, unpacked = await http.get(url), await http.head(url), await http.get(url)
    assert whole.headers["content-length"] == "9"
    assert (head.headers["content-length"], head.headers["content-encoding"]) == ("999", "gzip")
    assert unpacked.content == b"y"
    assert not {"content-length", "content-encoding"} & {name.lower() for name in unpacked.headers}


async def test_a_request_that_passes_through_gets_no_extra_header(client):
    async with served() as server, client() as http:
        await http.put(f"{server.base_url}/parts/1", content=b"x")
    (request,) = server.requests
    assert set(request.headers) == {
        "host", "accept", "accept-encoding", "authorization", "content-length", "user-agent"
    }  # fmt: skip


async def test_a_cut_response_that_passes_through_raises(lib, client):
    cut = [answer(b"abc", content_length=10), End.CLOSE]
    async with served(cut) as server, client() as http:
        with pytest.raises(lib.RemoteProtocolError):
            await http.get(f"{server.base_url}/files/f/content")


async def test_a_redirect_that_passes_through_is_not_followed(client):
    async with served(failing(302, location="http://other.invalid/x")) as server, client() as http:
        response = await http.get(f"{server.base_url}/files/f/content", follow_redirects=True)
    assert response.status_code == 302
    assert len(server.requests) == 1


async def test_keys_of_two_origins_are_not_mixed(client):
    async with served(failing(500)) as one, served(answer()) as other, client() as http:
        for server, key in ((one, "first-0123456789"), (other, "second-0123456789")):
            headers = {"authorization": f"Bearer {key}"}
            await http.post(f"{server.base_url}/chat/completions", json=PAYLOAD, headers=headers)
    assert {"Bearer first-0123456789"} == {each.headers["authorization"] for each in one.requests}
    assert {"Bearer second-0123456789"} == {
        each.headers["authorization"] for each in other.requests
    }


async def test_a_fallback_gets_its_own_key_and_model(client, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "other-0123456789")
    async with served(failing(401)) as one, served(answer()) as other:
        place = Place(base_url=other.base_url, api_key_env="OTHER_KEY", model="n")
        rule = ToTargets(on=("auth",), targets=(place,))
        async with client(Policy(retry_budget=None, fallback=(rule,))) as http:
            response = await http.post(
                f"{one.base_url}/chat/completions", json=PAYLOAD, headers={"x-secret": "for one"}
            )
    assert response.status_code == 200
    assert "/n#" in response.headers["x-stormbreak-target"]
    (request,) = other.requests
    assert request.headers["authorization"] == "Bearer other-0123456789"
    assert "x-secret" not in request.headers
    assert json.loads(request.body)["model"] == "n"


async def test_fallbacks_map_the_models_that_one_transport_serves(client):
    async with served(failing(401)) as one, served(answer()) as other:
        place = Place(base_url=other.base_url, models={"m": "large", "n": "small"})
        async with client(
            Policy(retry_budget=None, fallback=(ToTargets(targets=(place,)),))
        ) as http:
            url = f"{one.base_url}/chat/completions"
            came = [
                await http.post(url, json=PAYLOAD | {"model": model}) for model in ("m", "n", "o")
            ]
    assert [response.status_code for response in came] == [200, 200, 401]
    assert [json.loads(each.body)["model"] for each in other.requests] == ["large", "small"]


async def test_cached_and_degraded_answers_are_returned(client):
    rules = (ToCache(on=("auth",)), ToDegraded(on=("auth",), text="later"))
    policy = Policy(retry_budget=None, retry=RetryPolicy(max_attempts=1), fallback=rules)
    async with served(answer(), failing(401)) as server, client(policy) as http:
        url = f"{server.base_url}/chat/completions"
        texts = []
        for payload in (PAYLOAD, PAYLOAD, PAYLOAD | {"n": None}):
            response = await http.post(url, json=payload)
            texts.append(response.json()["choices"][0]["message"]["content"])
        streamed = await http.post(url, json=PAYLOAD | {"stream": True})
    assert texts == ["fine", "fine", "later"]
    assert streamed.status_code == 401


async def test_calls_and_streams_use_an_inner_transport(lib, transport):
    inner = lib.AsyncHTTPTransport()
    async with (
        served(failing(503), answer(), [answer(b"", **EVENTS), HELLO, End.CLOSE]) as server,
        lib.AsyncClient(transport=transport(inner=inner), headers=AUTH) as http,
    ):
        url = f"{server.base_url}/chat/completions"
        response = await http.post(url, json=PAYLOAD)
        assert response.headers["x-stormbreak-attempts"] == "2"
        with pytest.raises(lib.RemoteProtocolError):
            await http.post(url, json=PAYLOAD | {"stream": True})
        assert in_flight(http._transport) == 0
        with pytest.raises(lib.RemoteProtocolError):
            await http.get(f"{server.base_url}/files/f/content")
    assert len(server.requests) == 4


async def test_a_response_of_an_inner_transport_is_closed_when_left_or_timed_out(lib, transport):
    inner = lib.AsyncHTTPTransport()
    async with (
        served([answer(b"", **EVENTS), HELLO, End.HANG]) as server,
        lib.AsyncClient(transport=transport(inner=inner), headers=AUTH) as http,
    ):
        url = f"{server.base_url}/chat/completions"
        async with http.stream("POST", url, json=PAYLOAD | {"stream": True}) as left:
            assert in_flight(http._transport) == 1
        await until(lambda: server.closed == 1)
        assert left.is_closed  # closed, and not only dropped
        with pytest.raises(lib.ReadTimeout):
            await http.post(url, json=PAYLOAD | {"stream": True}, timeout=0.2)
        await until(lambda: server.closed == 2)
        assert in_flight(http._transport) == 0


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("own", [True, False])
async def test_an_error_with_a_cut_body_keeps_its_status(lib, transport, own, streams):
    more = {} if own else {"inner": lib.AsyncHTTPTransport()}
    async with (
        served([failing(401, content_length=500), End.CLOSE]) as server,
        lib.AsyncClient(transport=transport(**more), headers=AUTH) as http,
    ):
        url = f"{server.base_url}/chat/completions"
        response = await http.post(url, json=PAYLOAD | {"stream": streams})
    assert (response.status_code, len(server.requests)) == (401, 1)


async def test_an_answer_over_an_inner_transport_is_bounded(lib, transport, monkeypatch):
    monkeypatch.setattr(inner_wire, "BODY_LIMIT", 1000)
    one = transport(ONCE, inner=lib.AsyncHTTPTransport())
    async with served(answer(b'"' + b"x" * 3000)) as server, lib.AsyncClient(transport=one) as http:
        with pytest.raises(lib.RemoteProtocolError, match="larger than it may be"):
            await http.post(f"{server.base_url}/chat/completions", json=PAYLOAD)


async def test_a_cancel_closes_the_stream_of_an_inner_transport(lib, transport):
    async with (
        served([answer(b"", **EVENTS), HELLO, End.HANG]) as server,
        lib.AsyncClient(transport=transport(inner=lib.AsyncHTTPTransport())) as http,
    ):
        url = f"{server.base_url}/chat/completions"
        async with http.stream("POST", url, json=PAYLOAD | {"stream": True}) as stream:
            reading = asyncio.create_task(stream.aread())
            await asyncio.sleep(0.05)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        await until(lambda: server.closed == 1)
        assert in_flight(http._transport) == 0


async def test_a_refused_connection_of_an_inner_transport_raises_connect_error(lib, transport):
    inner = lib.AsyncHTTPTransport()
    async with lib.AsyncClient(transport=transport(ONCE, inner=inner)) as http:
        with pytest.raises(lib.ConnectError):
            await http.post("http://127.0.0.1:9/v1/chat/completions", json=PAYLOAD)


async def test_the_given_proxy_is_used(client):
    async with (
        served(answer()) as proxy,
        client(ONCE, proxy=f"http://127.0.0.1:{proxy.port}", allow_http=True) as http,
    ):
        response = await http.post("http://api.invalid/v1/chat/completions", json=PAYLOAD)
    assert response.status_code == 200
    assert proxy.requests[0].line.startswith("POST http://api.invalid/v1/chat/completions")


async def test_a_key_over_plain_http_is_rejected(client):
    async with client() as http:
        with pytest.raises(ConfigurationError, match="in the clear"):
            await http.post("http://api.invalid/v1/chat/completions", json=PAYLOAD)
        with pytest.raises(ConfigurationError, match="in the clear"):
            await http.post("http://api.invalid/v1/files", files={"file": b"x"})


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"http2": True}, "http2"),
        ({"proxy": "socks5://here"}, "proxy must be"),
        ({"proxy": "http://"}, "proxy must be"),
        ({"proxy": "http://[here"}, "proxy must be"),
        ({"proxy": httpx2.Proxy("http://here")}, "proxy must be"),
        ({"cert": "/nowhere.pem"}, "cert: No such file"),
        ({"cert": "/nowhere.pem", "verify": ssl.create_default_context()}, "cert: No such file"),
        ({"verify": "/nowhere.pem"}, "verify must be an ssl.SSLContext, True or False"),
        ({"inner": object(), "verify": False}, "verify goes to the inner transport"),
        ({"inner": object(), "http2": True}, "http2 goes to the inner transport"),
        ({"policy": "nonsense"}, "nonsense"),
    ],
)
def test_an_invalid_transport_option_raises_at_the_start(transport, given, wrong):
    with pytest.raises(ConfigurationError, match=wrong):
        transport(**given)


def test_verify_sets_the_tls_context():
    context = ssl.create_default_context()
    assert AsyncTransport(verify=context)._connecting._tls is context
    assert AsyncTransport(verify=False)._connecting._tls.verify_mode is ssl.CERT_NONE


def test_ssl_cert_file_is_read_only_with_trust_env(transport, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
        transport(verify=False)
    transport(verify=False, trust_env=False)


async def test_a_disabled_transport_does_not_retry(client, monkeypatch):
    monkeypatch.setitem(os.environ, "STORMBREAK_DISABLED", "1")
    async with served(failing(503)) as server, client("interactive") as http:
        response = await http.post(f"{server.base_url}/chat/completions", json=PAYLOAD)
    assert response.status_code == 503
    assert len(server.requests) == 1
