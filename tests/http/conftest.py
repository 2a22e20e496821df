import gc
import os
import time

import pytest
from on_threads import ConnectionOnThreads
from stream_scene import StreamScene

from stormbreak.drivers import blocking
from stormbreak.http.h1.async_connection import AsyncConnection
from stormbreak.http.prepared_request import PreparedRequest


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """Hide the settings of this machine from the tests."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.endswith(("_API_KEY", "_BASE_URL")):
            monkeypatch.delenv(name)


@pytest.fixture
def jump(monkeypatch):
    """Move the monotonic clock forward, by so much that a pause of the machine does not matter."""
    clock, jumped, poll = time.monotonic, 0.0, blocking._poll

    def jump(seconds):
        nonlocal jumped
        jumped += seconds

    def short_poll(waits, until):
        until = min(until, *(wait.until for wait in waits))
        while True:
            found, now = poll(waits, min(until, time.monotonic() + 0.01))
            if found or now >= until:
                return found, now

    monkeypatch.setattr(time, "monotonic", lambda: clock() + jumped)
    monkeypatch.setattr(blocking, "_poll", short_poll)
    return jump


@pytest.fixture(params=["awaits", "blocks"])
async def connection(request):
    """Yield a connection of each kind, and close it; it must leave nothing behind."""
    connection = (AsyncConnection if request.param == "awaits" else ConnectionOnThreads)(limit=300)
    yield connection
    await connection.close()
    gc.collect()


@pytest.fixture
def ask(connection):
    """Send one POST to a server."""

    async def ask(server, **more):
        url = f"{server.base_url}/chat/completions"
        return await connection.exchange(
            PreparedRequest(url, {"Authorization": "Bearer key-canary"}, b'{"a":1}', **more)
        )

    return ask


@pytest.fixture
async def scene():
    """Yield a scene that streams scripts to a client; it must leave nothing behind."""
    scene = StreamScene()
    yield scene
    gc.collect()
    await scene.leave()
