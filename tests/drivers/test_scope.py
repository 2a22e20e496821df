"""What holds for every call within a block: its deadline, however far down, and on the background loop, too."""

import asyncio
import time

import pytest
from clients import SAY, client_of
from sockets import End, served

from stormbreak import Client, ConfigurationError, scope
from stormbreak.drivers.scope import Scope, current
from stormbreak.errors import AttemptTimeoutError, ShedError
from stormbreak.testing import serve


def seconds_left():
    return current().deadline_at - time.monotonic()


def test_without_a_scope_nothing_holds():
    assert current() == Scope()


def test_it_holds_within_the_block_and_not_behind_it():
    with scope(deadline=5.0) as here:
        assert current() is here
        assert 4.0 < seconds_left() <= 5.0
    assert current() == Scope()


@pytest.mark.parametrize(
    ("outer", "inner", "least"), [(1.0, 60.0, 1.0), (60.0, 1.0, 1.0), (1.0, None, 1.0)]
)
def test_an_inner_scope_extends_nothing(outer, inner, least):
    with scope(deadline=outer):
        with scope(deadline=inner):
            assert least - 0.5 < seconds_left() <= least
        assert outer - 0.5 < seconds_left() <= outer


@pytest.mark.parametrize("deadline", [-1.0, float("nan")])
def test_a_deadline_that_is_none_is_refused(deadline):
    with (
        pytest.raises(ConfigurationError, match="deadline must not be negative"),
        scope(deadline=deadline),
    ):
        pass


@pytest.mark.parametrize(("call", "around"), [(None, 0.2), (60.0, 0.2), (0.2, 60.0)])
async def test_the_earlier_of_two_deadlines_ends_a_call(call, around):
    async with served([End.HANG]) as server, client_of(server) as client:
        began = time.monotonic()
        with scope(deadline=around), pytest.raises(AttemptTimeoutError) as caught:
            async with asyncio.timeout(5):
                await client.request("chat/completions", {"messages": SAY}, deadline=call)
        assert 0.15 < time.monotonic() - began < 2.0
        assert caught.value.ended.outcome.own_deadline


async def test_a_deadline_that_has_passed_sends_nothing():
    async with served([End.HANG]) as server, client_of(server) as client:
        with scope(deadline=0), pytest.raises(ShedError):
            async with asyncio.timeout(5):
                await client.chat(SAY)
        assert server.requests == []


async def test_a_stream_ends_by_it_too():
    async with served([End.HANG]) as server, client_of(server) as client:
        with scope(deadline=0.2), pytest.raises(AttemptTimeoutError):
            async with asyncio.timeout(5):
                await client.stream("chat/completions", {"messages": SAY})


def test_it_goes_along_to_the_background_loop():
    with serve("calm") as provider, Client(base_url=provider.base_url, model="m") as client:
        with scope(deadline=0), pytest.raises(ShedError):
            client.chat(SAY)
        assert client.chat(SAY).text
