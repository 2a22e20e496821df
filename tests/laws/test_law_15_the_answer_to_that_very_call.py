"""Law 15. A success is the answer to that very call: whatever a server sends besides never reaches another one."""

import inspect

import aiohttp
import pytest
from doubles import PAUSE, Doubles, ask_all
from sockets import served

from stormbreak.http.aiohttp_wire import _Connector


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
    """Below aiohttp's documented surface: its pool gives and takes connections by these two methods."""
    for name in ("_get", "_release"):
        ours = inspect.signature(getattr(_Connector, name))
        theirs = inspect.signature(getattr(aiohttp.TCPConnector, name))
        assert list(ours.parameters) == list(theirs.parameters)
    handler = aiohttp.client_proto.ResponseHandler
    assert isinstance(handler.should_close, property)
    assert "_parser" in inspect.getsource(handler.data_received)
