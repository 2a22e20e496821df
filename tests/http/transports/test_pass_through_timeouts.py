"""The deadline of a scope bounds requests that pass through: upload, wait, and reading."""

import asyncio
import time
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module

import openai
import pytest
from sdk_clients import KEY, QUICK, SDKS
from sockets import CHUNKED, End, answer, served

from stormbreak import ConfigurationError, scope

DRIPPING = [answer(b"", content_length=1000), *[0.05, b"x"] * 40, End.HANG]
DRIPPING_HEAD = [b"HTTP/1.1 200 OK\r\nx: ", *[0.05, b"x"] * 100, End.HANG]
DRIPPING_CHUNK = [CHUNKED, b"1;", *[0.05, b"x"] * 100, End.HANG]
FILE = {"file": ("a.jsonl", b"{}")}


@pytest.fixture(params=["awaits", "blocks"])
def client(lib, request, over):
    """Yield a client of the library over our transport, and a way to call its methods."""
    ours = import_module(f"stormbreak.{lib.__name__}")
    awaits = request.param == "awaits"
    kind = lib.AsyncClient if awaits else lib.Client
    inner = None
    if over == "inner":
        inner = lib.AsyncHTTPTransport() if awaits else lib.HTTPTransport()
    made = (ours.AsyncTransport if awaits else ours.Transport)(QUICK, inner=inner)

    async def do(function, *args, **more):
        called = function(*args, **more) if awaits else asyncio.to_thread(function, *args, **more)
        return await called

    @asynccontextmanager
    async def opened():
        http = kind(transport=made, timeout=30)
        yield http, do
        await do(http.aclose if awaits else http.close)

    return opened


@contextmanager
def within(seconds):
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


async def end_late(server, lib, ask):
    """Ask until a request has arrived, since a pause of the machine may last for the whole deadline."""
    asked = 0
    while not server.requests:
        with within(20), pytest.raises(lib.TimeoutException) as caught:
            await ask()
        asked += 1
    assert caught.type is lib.ReadTimeout
    assert len(server.requests) <= asked


async def test_the_scope_deadline_ends_a_response(lib, client):
    """A silent response, and dripping ones, side by side."""

    async def ends(http, do, script):
        async def ask():
            with scope(deadline=0.5):
                await do(http.post, f"{server.base_url}/files", files=FILE)

        async with served(script) as server:
            await end_late(server, lib, ask)
            await server.all_closed()

    scripts = [[End.HANG], DRIPPING, DRIPPING_HEAD, DRIPPING_CHUNK]
    async with client() as (http, do):
        await asyncio.gather(*(ends(http, do, script) for script in scripts))


async def test_a_scope_deadline_in_the_past_sends_nothing(lib, client):
    async with served() as server, client() as (http, do):
        with scope(deadline=0.0), pytest.raises(lib.ReadTimeout, match="deadline"):
            await do(http.post, f"{server.base_url}/files", files=FILE)
        assert server.opened == 0


async def test_the_deadline_header_works_and_is_not_sent(lib, client):
    async with served([End.HANG]) as server, client() as (http, do):
        url, headers = f"{server.base_url}/files", {"x-stormbreak-deadline": "0.5"}
        await end_late(server, lib, lambda: do(http.post, url, files=FILE, headers=headers))
        assert "x-stormbreak-deadline" not in server.requests[0].headers
        with pytest.raises(ConfigurationError, match="x-stormbreak-deadline must be seconds"):
            await do(http.post, url, files=FILE, headers={"x-stormbreak-deadline": "soon"})


async def test_a_response_within_the_scope_deadline_is_returned(client):
    async with served([0.05, answer(b"whole")]) as server, client() as (http, do):
        with scope(deadline=60.0):
            response = await do(http.post, f"{server.base_url}/files", files=FILE)
    assert response.content == b"whole"


async def test_the_scope_deadline_ends_an_upload(lib):
    """The upload is an async generator that hangs."""
    ours = import_module(f"stormbreak.{lib.__name__}")
    begun, left = asyncio.Event(), asyncio.Event()

    async def pieces():
        begun.set()
        yield b"a"
        try:
            await asyncio.sleep(60)
        finally:
            left.set()

    async with (
        served([End.HANG]) as server,
        lib.AsyncClient(transport=ours.AsyncTransport(QUICK)) as http,
    ):
        while not begun.is_set():  # a pause of the machine may last for the whole deadline
            with within(20), scope(deadline=0.5), pytest.raises(lib.TimeoutException) as caught:
                await http.post(f"{server.base_url}/files", content=pieces())
        assert caught.type is lib.ReadTimeout
        async with asyncio.timeout(30):
            await left.wait()
        await server.all_closed()


@pytest.mark.parametrize("sdk", [each for each in SDKS if each.module is openai], ids=str)
async def test_an_sdk_raises_its_own_timeout(sdk):
    async with served([End.HANG]) as server:
        client = sdk.client(server.base_url, sdk.transport(), max_retries=0)
        while not server.requests:  # a pause of the machine may last for the whole deadline
            with within(20), scope(deadline=0.5), pytest.raises(openai.APITimeoutError):
                await sdk.do(client.files.create, file=FILE["file"], purpose="batch")
        await sdk.close(client)
    assert KEY in server.requests[0].headers["authorization"]
