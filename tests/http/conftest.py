import gc
import os

import pytest
from on_threads import ConnectionOnThreads
from stream_scene import StreamScene

from stormbreak.http.h1.async_connection import AsyncConnection
from stormbreak.http.prepared_request import PreparedRequest


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No setting of this machine gets into a test."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.endswith(("_API_KEY", "_BASE_URL")):
            monkeypatch.delenv(name)


@pytest.fixture(params=["awaits", "blocks"])
async def wire(request):
    """A connection of each kind that is closed at the end, and must leave nothing behind."""
    wire = (AsyncConnection if request.param == "awaits" else ConnectionOnThreads)(limit=300)
    yield wire
    await wire.close()
    gc.collect()


@pytest.fixture
def ask(wire):
    """Send one POST to a server."""

    async def ask(server, **more):
        url = f"{server.base_url}/chat/completions"
        return await wire.exchange(
            PreparedRequest(url, {"Authorization": "Bearer key-canary"}, b'{"a":1}', **more)
        )

    return ask


@pytest.fixture
async def scene():
    """Streams of scripts to a client, of which nothing may stay behind."""
    scene = StreamScene()
    yield scene
    gc.collect()
    await scene.leave()
