"""10,000 calls over 50 connections to a server that sends one in ten responses twice, at once or while idle."""

import pytest
from doubles import PAUSE, Doubles, ask_all
from sockets import served

pytestmark = pytest.mark.prove


@pytest.mark.parametrize("pause", [None, PAUSE], ids=["busy", "idle"])
async def test_no_answer_reaches_the_wrong_call(pause):
    doubles = Doubles(0, late=0 if pause is None else 50)
    async with served([doubles]) as server:
        answered, failed = await ask_all(server.base_url, calls=10_000, at_once=50, pause=pause)

    assert (answered, failed) == (10_000, [])
    assert doubles.twice > 300
    assert doubles.later > (-1 if pause is None else 300)
