"""Bodies of one loop share a memory budget. Found: 268 KiB of gzip with 64 in flight took 1.2 GB."""

import asyncio
import gzip
import json

import pytest
from clients import ONCE, client_of
from sockets import BODY, EVENTS, End, answer, served

from stormbreak.http.h1 import connection
from stormbreak.http.h1.connection import ERROR_LIMIT, FREE, Held
from stormbreak.types import Verdict

MIB = 2**20


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(connection, "BUDGET", 4 * MIB)


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


def memory():
    return connection._of_running_loop()


async def test_a_small_body_takes_no_budget():
    held = Held()
    await held.grow_to(FREE)
    assert not connection._MEMORIES.get(asyncio.get_running_loop())


async def test_a_body_over_the_budget_waits_until_another_ends():
    first, second, third = Held(), Held(), Held()
    await first.grow_to(FREE + 3 * MIB)
    await second.grow_to(FREE + 2 * MIB)  # one may exceed the budget, so that one can end
    waiting = asyncio.create_task(third.grow_to(FREE + MIB))
    await settle()
    assert not waiting.done()

    await second.grow_to(FREE + 10 * MIB)
    second.release()
    await waiting
    first.release()
    third.release()
    third.release()
    assert memory().left == 4 * MIB


async def test_waiting_bodies_are_served_in_order():
    first = Held()
    await first.grow_to(FREE + 5 * MIB)
    served_in = []

    async def take(number):
        held = Held()
        await held.grow_to(FREE + 2 * MIB)
        served_in.append(number)
        await asyncio.sleep(0)
        held.release()

    others = [asyncio.create_task(take(number)) for number in range(5)]
    await settle()
    assert not served_in
    first.release()
    await asyncio.gather(*others)
    assert served_in == [0, 1, 2, 3, 4]
    assert memory().left == 4 * MIB


@pytest.mark.parametrize("granted", [False, True], ids=["while it waits", "as it is granted"])
async def test_a_cancelled_wait_takes_no_budget(granted):
    first, second, third = Held(), Held(), Held()
    await first.grow_to(FREE + 5 * MIB)
    tasks = [asyncio.create_task(each.grow_to(FREE + MIB)) for each in (second, third)]
    await settle()
    if granted:
        first.release()
    tasks[0].cancel()
    await settle()
    second.release()
    first.release()
    await tasks[1]
    third.release()
    assert memory().left == 4 * MIB


BOMB = gzip.compress(BODY[:-1] + b" " * 3 * MIB + b"}", 9)


@pytest.mark.parametrize("stream", [False, True])
async def test_no_good_answer_fails_because_of_the_budget(stream):
    """Each body has 3 MiB, the budget 4 MiB."""
    if stream:
        comment = b": " + b" " * 3 * MIB + b"\n\n"
        choice = {"index": 0, "delta": {"content": "fine"}, "finish_reason": "stop"}
        event = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
        script = answer(
            gzip.compress(comment + event + b"data: [DONE]\n\n"), **EVENTS, content_encoding="gzip"
        )
    else:
        script = answer(BOMB, content_encoding="gzip")
    highest = []
    async with served(script) as server, client_of(server, ONCE) as client:

        async def ask():
            got = await client.request("chat/completions", {"messages": [], "stream": stream})
            highest.append(memory().left)
            return got.text

        assert await asyncio.gather(*(ask() for _ in range(12))) == ["fine"] * 12
        assert memory().left == 4 * MIB
    assert min(highest) >= -3 * MIB


@pytest.mark.parametrize("stream", [False, True])
async def test_the_body_of_an_error_is_read_only_up_to_its_limit(stream, monkeypatch):
    """Found: the client read and searched 64 MiB of an error body."""
    sizes = []
    replaced = connection.HttpResponse._replace

    def watched(self, **fields):
        sizes.extend(len(body) for name, body in fields.items() if name == "body")
        return replaced(self, **fields)

    monkeypatch.setattr(connection.HttpResponse, "_replace", watched)
    endless = gzip.compress(b'{"error": {"code": "no"}}' + b" " * 60 * MIB)
    script = [answer(endless, 400, content_encoding="gzip", content_length=10**7), End.HANG]
    async with served(script) as server, client_of(server, ONCE) as client:
        body = json.dumps({"model": "m", "stream": stream}).encode()
        ended = await client.ask("chat/completions", body)
        await server.all_closed()

    assert ended.outcome.verdict is Verdict.INVALID
    assert ended.outcome.code == "no"
    assert max(sizes) == ERROR_LIMIT


async def test_large_bodies_share_the_loop_with_other_tasks():
    """Found: bodies that were ready together ran in one turn of the loop, and delayed every other call."""
    steps, between = [], []

    async def grow(body):
        held = Held()
        for size in range(FREE + MIB, FREE + 5 * MIB, MIB):
            await held.grow_to(size)
            steps.append(body)
        held.release()

    async def other():
        while len(steps) < 80:
            before = len(steps)
            await asyncio.sleep(0)
            between.append(len(steps) - before)

    await asyncio.wait_for(asyncio.gather(other(), *map(grow, range(20))), 10)
    assert max(between) == 1


async def test_a_cancelled_body_does_not_delay_those_behind_it():
    first, second = Held(), Held()
    waiting = asyncio.create_task(first.grow_to(FREE + MIB))
    behind = asyncio.create_task(second.grow_to(FREE + MIB))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting, behind}, timeout=30)
    assert waiting.cancelled()
    assert behind.done()
    first.release()
    second.release()
    assert memory().left == connection.BUDGET
