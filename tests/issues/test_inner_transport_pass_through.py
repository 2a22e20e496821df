"""Requests that are only passed on went through an inner transport unchecked: a redirect sent the key to another origin,
and a key went over plain http to another machine. The own connection pools had checked both.
"""

import asyncio
from importlib import import_module

import anthropic
import pytest
from sdk_clients import KEY, QUICK
from sockets import answer, failing, served

from stormbreak import ConfigurationError
from stormbreak.httpx2 import wrap

UPLOAD = {"files": {"file": ("a", b"x")}}


@pytest.fixture(params=["httpx2", "httpx"])
def lib(request):
    return import_module(request.param)


@pytest.fixture(params=["awaits", "blocks"])
def client(lib, request):
    """Return a function that makes a wrapped client, and a function to call its methods."""
    ours = import_module(f"stormbreak.{lib.__name__}")
    awaits = request.param == "awaits"
    kind = lib.AsyncClient if awaits else lib.Client

    async def do(function, *args, **more):
        called = function(*args, **more) if awaits else asyncio.to_thread(function, *args, **more)
        return await called

    def make(**more):
        http = kind(headers={"x-api-key": KEY}, follow_redirects=True, **more)
        return ours.wrap(http, QUICK), do

    return make


async def test_a_redirect_to_another_origin_is_not_followed(client):
    async with (
        served(answer(b"stolen")) as thief,
        served(failing(302, location=f"{thief.base_url}/x")) as server,
    ):
        http, do = client()
        response = await do(http.get, f"{server.base_url}/files/f/content")
        await do(http.aclose if hasattr(http, "aclose") else http.close)
    assert (response.status_code, thief.requests) == (302, [])


async def test_a_redirect_within_the_origin_is_followed(client):
    redirects = failing(302, location="/v1//there"), failing(302, location="?again"), answer(b"{}")
    async with served(*redirects) as server:
        http, do = client()
        response = await do(http.get, f"{server.base_url}/files/f/content")
        await do(http.aclose if hasattr(http, "aclose") else http.close)
    assert response.status_code == 200
    assert [each.line.split()[1] for each in server.requests[1:]] == [
        "/v1//there",
        "/v1//there?again",
    ]


async def test_a_key_over_plain_http_is_rejected(client):
    http, do = client()
    with pytest.raises(ConfigurationError, match="in the clear"):
        await do(http.post, "http://api.invalid/v1/files", **UPLOAD)
    await do(http.aclose if hasattr(http, "aclose") else http.close)


async def test_a_redirected_download_of_an_sdk_does_not_leak_its_key():
    async with (
        served(answer(b"stolen")) as thief,
        served(failing(307, location=f"{thief.base_url}/x")) as server,
    ):
        base_url = server.base_url.removesuffix("/v1")
        async with wrap(anthropic.AsyncAnthropic(base_url=base_url, api_key=KEY)) as client:
            with pytest.raises(anthropic.APIStatusError):
                await client.beta.files.download("f")
    assert thief.requests == []
