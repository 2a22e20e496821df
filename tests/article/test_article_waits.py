"""Models of how the article's code waits, beside stormbreak under the preset `article`."""

import asyncio
import random
import time
from dataclasses import replace
from email.utils import formatdate

import aiohttp
import pytest
from article_models import TRIES, retrying
from batches import scenario
from sockets import answer, failing, served
from stage import OK, TARGET, Stage, retry_in
from virtual_loop import now, run

from stormbreak import AsyncClient
from stormbreak.core.backoff import Backoff
from stormbreak.core.engine import Engine
from stormbreak.core.presets import ARTICLE
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.errors import ThrottledError
from stormbreak.types import Call, Verdict

SAY = [{"role": "user", "content": "hello"}]
PAYLOAD = {"model": "m", "messages": SAY}


def url_of(server):
    return f"{server.base_url}/chat/completions"


def client_of(server):
    return AsyncClient(base_url=server.base_url, model="m", policy="article")


# ------------------------------------------------------------ Retry-After


async def test_a_date_in_retry_after_raises_value_error():
    named = formatdate(time.time() + 120, usegmt=True)
    async with served(failing(429, retry_after=named)) as server:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(ValueError, match="could not convert string to float"):
                await retrying(session, url_of(server), PAYLOAD)
        async with client_of(server) as client:
            with pytest.raises(ThrottledError) as refused:
                await client.request("chat/completions", PAYLOAD, deadline=30)
    assert 110 < refused.value.retry_at - time.monotonic() <= 120


@pytest.mark.parametrize(
    ("value", "theirs"), [("-5", [-5.0] * TRIES), ("inf", None), ("nan", None)]
)
async def test_an_invalid_retry_after_is_slept_as_given(value, theirs):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        # Forever, or an error of the event loop, depending on the Python version.
        if not seconds < 0:
            raise InterruptedError

    async with served(failing(429, retry_after=value)) as server:
        async with aiohttp.ClientSession() as session:
            if theirs is None:
                with pytest.raises(InterruptedError):
                    await retrying(session, url_of(server), PAYLOAD, sleep=sleep)
            else:  # -5 s: no pause at all
                await retrying(session, url_of(server), PAYLOAD, sleep=sleep)
                assert slept == theirs
        server.requests.clear()
        async with client_of(server) as client:
            with pytest.raises(ThrottledError) as refused:
                await client.request("chat/completions", PAYLOAD, deadline=0.5)
        assert len(server.requests) == 1
    assert refused.value.ended.stopped == "deadline"  # its backoff is at least 0.7 s


async def test_the_retry_after_of_a_503_is_ignored(stormbreak_provider):
    overloaded = scenario(
        {"kind": "503", "retry_after": 0.2, "retry_after_form": "ms", "until": 0.1}
    )
    theirs, ours = stormbreak_provider(overloaded), stormbreak_provider(overloaded)
    async with aiohttp.ClientSession() as session:
        await retrying(session, url_of(theirs), PAYLOAD, sleep=asyncio.sleep, backoff=0.03)
    async with client_of(ours) as client:
        await client.chat(SAY)

    assert theirs.stats()["early"] > 0
    assert ours.stats()["early"] == 0


async def test_a_retry_after_of_a_day_is_slept():
    async with served(failing(429, retry_after="86400"), answer()) as server:
        slept = []

        async def sleep(seconds):
            slept.append(seconds)

        async with aiohttp.ClientSession() as session:
            await retrying(session, url_of(server), PAYLOAD, sleep=sleep)
    assert slept == [86_400.0]

    stage = Stage(ARTICLE)
    ended = stage.start().step(retry_in(86_400.0)).ended
    assert (ended.outcome.verdict, ended.retry_at) == (Verdict.THROTTLED, stage.now + 86_400.0)


async def test_only_the_call_that_got_retry_after_waits():
    async with served(failing(429, retry_after="60"), answer()) as server:
        got_retry_after = asyncio.Event()

        async def sleep(seconds):
            got_retry_after.set()
            await asyncio.Event().wait()

        async with aiohttp.ClientSession() as session:
            first = asyncio.create_task(retrying(session, url_of(server), PAYLOAD, sleep=sleep))
            await got_retry_after.wait()
            await asyncio.gather(*(retrying(session, url_of(server), PAYLOAD) for _ in range(3)))
            first.cancel()
        assert len(server.requests) == 4  # although Retry-After was 60 s

    stage = Stage(ARTICLE)
    stage.start().step(retry_in(60.0))
    others = [stage.start() for _ in range(3)]
    stage.pass_time(59.9)
    assert not any(each.sending for each in others)


async def test_calls_with_the_same_retry_after_return_at_the_same_time():
    refusal, slept = failing(429, retry_after="2"), []

    async def sleep(seconds):
        slept.append(seconds)

    async with served(*[refusal] * 20, answer()) as server:
        for _ in range(20):
            async with aiohttp.ClientSession() as session:
                await retrying(session, url_of(server), PAYLOAD, sleep=sleep)
    assert slept == [2.0] * 20

    returns = []
    for process in range(100):
        stage = Stage(ARTICLE, chance=random.Random(process).random())
        returns.append(stage.start().step(retry_in(2.0)).command.until - stage.now)
    assert 2.0 <= min(returns) < 2.1
    assert 2.9 < max(returns) <= 3.0


# ------------------------------------------------------------ the end of a call


def test_a_call_has_no_deadline():
    """The server never responds, and the caller has a minute."""
    ends = []

    async def theirs():
        for attempt in range(TRIES):
            await asyncio.sleep(30.0)  # the timeout of one request
            await asyncio.sleep(2.0**attempt if attempt < TRIES - 1 else 0.0)
        ends.append(now())

    run(theirs)
    assert ends == [pytest.approx(211.0)]

    timeline = Timeline()
    driver = VirtualDriver(Engine(ARTICLE), timeline)
    ended = []
    driver.start(Call(1, TARGET, deadline_at=60.0), lambda send, reply: None, ended.append)
    timeline.run()
    assert ended[0].outcome.verdict is Verdict.TIMEOUT
    assert timeline.now <= 60.0


def test_each_retry_adds_a_stack_frame():
    def theirs(left):
        return theirs(left - 1) if left else "answer"

    with pytest.raises(RecursionError):
        theirs(5_000)

    stage = Stage(
        replace(
            ARTICLE, breaker=None, patience=None, retry=replace(ARTICLE.retry, max_attempts=5_001)
        )
    )
    call = stage.start()
    for _ in range(5_000):
        call.step(retry_in(0.01))
        stage.pass_time(1.0)
    assert call.step(OK).ended.attempts == 5_001


# ------------------------------------------------------------ backoff


def drawn(jitter):
    """Delays of code that varies a backoff of two seconds by a share of it."""
    chance = random.Random(0)
    return [2.0 + chance.uniform(-2.0 * jitter, 2.0 * jitter) for _ in range(1000)]


def test_the_jitter_of_the_code_exceeds_that_of_the_table():
    least_said, most_said = 1.6, 2.4  # its table, before the second retry
    theirs = drawn(jitter=0.3)
    assert min(theirs) < least_said
    assert max(theirs) > most_said

    backoff, chance = ARTICLE.retry.backoff, random.Random(0)
    ours = [backoff.delay(2, chance.random()) for _ in range(1000)]
    least, most = backoff.delay(2, 0.0), backoff.delay(2, 1.0)
    assert (least, most) == (1.4, 2.6)
    assert least <= min(ours) < least + 0.01
    assert most >= max(ours) > most - 0.01


def test_the_decorrelated_jitter_of_the_table_does_not_grow():
    """Decorrelated jitter draws between the base and three times the previous delay, so its minimum never rises.

    The article's table has 1-3, 3-9, 1-3, 3-9.
    """
    rule, chance = Backoff(kind="decorrelated_jitter"), random.Random(0)
    before, reached = 0.0, []
    for retry in range(1, 1001):
        delay = rule.delay(retry, chance.random(), before)
        assert 1.0 <= delay <= min(60.0, max(3.0, 3.0 * before)) + 1e-9
        before = delay
        reached.append(delay)
    assert max(reached[2::2]) > 9.0
