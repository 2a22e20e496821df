"""Law 15. A success is the answer to that very call: whatever a server sends besides never reaches another one."""

import inspect
from pathlib import Path

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from doubles import PAUSE, Doubles, ask_all
from sockets import served

from stormbreak.http.aiohttp_wire import _Connector

ADR = (Path(__file__).parents[2] / "docs/adr/0004-the-http-engine.md").read_text()
HOOKS = {
    aiohttp.BaseConnector: ["_factory"],
    ResponseHandler: ["should_close", "_parser", "_payload", "set_exception", "read_timeout"],
    aiohttp.ClientSession: ["_retry_connection"],
    aiohttp.ClientResponse: ["_writer"],
    aiohttp.StreamReader: ["set_exception", "_wait", "_buffer", "_read_nowait"],
}


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_answer_that_comes_twice_in_one_write_reaches_the_next_call(seed):
    doubles = Doubles(seed, late=False)
    async with served([doubles]) as server:
        answered, failed = await ask_all(server, calls=500, at_once=10)

    assert (answered, failed) == (500, [])
    assert doubles.twice > 10


async def test_no_answer_that_comes_while_idle_reaches_the_next_call():
    doubles = Doubles(1, late=True)
    async with served([doubles]) as server:
        answered, failed = await ask_all(server, calls=200, at_once=20, pause=PAUSE)

    assert (answered, failed) == (200, [])
    assert doubles.later >= 5


def test_the_hooks_that_this_stands_on_are_there():
    """All that ADR 4 lists, below aiohttp's documented surface: in this version the behaviour is tested, too."""
    assert aiohttp.__version__.startswith("3.14.")
    for name in ("_get", "_release"):
        ours = inspect.signature(getattr(_Connector, name))
        theirs = inspect.signature(getattr(aiohttp.TCPConnector, name))
        assert list(ours.parameters) == list(theirs.parameters)
    for owner, names in HOOKS.items():
        source = inspect.getsource(owner)
        assert [name for name in names if name not in source] == []
        assert f"`{owner.__name__}" in ADR
        assert [name for name in names if f"{name}`" not in ADR] == []
    assert isinstance(ResponseHandler.should_close, property)
    assert ResponseHandler.read_timeout.fset is not None
