"""A closed client ends its waiting, sent and streamed calls at once, and rejects later ones."""

import asyncio
import gc
import threading
from dataclasses import replace

import pytest
from chat_stream import CUT, HELLO
from clients import PAYLOAD, QUICK, SAY, client_of, closed, hedging, target_state_of
from sockets import End, answer, failing, served

from stormbreak import ClientClosedError, StreamBrokenError, load
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.events import CallCancelled
from stormbreak.types import Verdict

ONE = replace(QUICK, limit=FixedLimit(max_in_flight=1))
FRAGILE = replace(
    ONE, breaker=BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1)), attempt_timeout=30.0
)
AWHILE = replace(
    QUICK, retry=RetryPolicy(max_attempts=4, backoff=Backoff(kind="constant", initial_delay=10.0))
)
UNBOUNDED = replace(QUICK, deadline=None, attempt_timeout=None, patience=None)
HEDGED = replace(QUICK, hedge=HedgePolicy(delay=0.02, percentile=None))


@pytest.mark.parametrize(
    "policy", [FRAGILE, ONE, UNBOUNDED, HEDGED], ids=["short", "long", "none", "hedged"]
)
async def test_close_cancels_sent_calls_without_counting_a_failure(policy):
    events = []
    async with served([End.HANG]) as server, hedging(server, policy) as client:
        client.subscribe(events.append)
        asking = asyncio.create_task(client.chat(SAY))
        await server.asked(2 if policy is HEDGED else 1)
        await client.close()
        error = await closed(asking)
        await server.all_closed()

        assert (error.verdict, error.attempts) == (Verdict.CANCELLED, len(server.requests))
        assert error.ended.maybe_processed == 1
        assert str(error).endswith(f"the client was closed after {error.attempts} attempt(s)")
        target_state = target_state_of(client)
        assert target_state.slots.in_flight == 0
        assert target_state.breaker is None or target_state.breaker.state is State.CLOSED
        assert [each.sent for each in events if isinstance(each, CallCancelled)] == [True]


async def test_close_ends_queued_calls_without_sending_them():
    async with served([End.HANG]) as server, client_of(server, ONE) as client:
        asking = [asyncio.create_task(client.chat(SAY)) for _ in range(3)]
        await server.asked()
        await client.close()
        errors = [await closed(each) for each in asking]
        assert sorted(error.attempts for error in errors) == [0, 0, 1]
        assert str(errors[-1]).endswith("the client is closed")
        assert (len(server.requests), target_state_of(client).slots.in_flight) == (1, 0)


async def test_close_ends_a_call_in_its_backoff():
    async with served(failing(500)) as server, client_of(server, AWHILE) as client:
        asking = asyncio.create_task(client.chat(SAY))
        await server.asked()
        await asyncio.sleep(0.02)
        await client.close()
        assert (await closed(asking)).attempts == 1


async def test_a_closed_client_rejects_calls_without_sending_them():
    async with served(answer()) as server:
        client = client_of(server)
        await client.chat(SAY)
        await client.close()
        await client.close()
        error = await closed(client.chat(SAY))
        assert (error.attempts, str(error).endswith(": the client is closed")) == (0, True)
        await closed(client.stream("chat/completions", PAYLOAD).opened())
        ended = await client.ask("chat/completions", b'{"model":"m","messages":[]}')
        assert ended.stopped == "closed"
        assert len(server.requests) == 1


async def test_close_breaks_a_stream_that_is_being_read():
    async with served([CUT, End.HANG]) as server, client_of(server, FRAGILE) as client:
        read = await client.stream("chat/completions", PAYLOAD)
        pieces = read.texts()
        assert await anext(pieces) == "hello"
        reading = asyncio.create_task(anext(pieces))
        await asyncio.sleep(0.02)
        await client.close()
        with pytest.raises(StreamBrokenError, match="the client was closed") as caught:
            await reading
        assert caught.value.received.endswith(HELLO)
        assert (caught.value.verdict, caught.value.attempts) == (Verdict.CANCELLED, 1)
        assert caught.value.ended.maybe_processed == 1
        await read.aclose()
        await server.all_closed()
        assert target_state_of(client).breaker.state is State.CLOSED
        assert target_state_of(client).slots.in_flight == 0


async def test_close_breaks_a_stream_that_is_not_being_read():
    async with (
        served([CUT, End.HANG]) as server,
        client_of(server) as client,
        client.stream("chat/completions", PAYLOAD) as stream,
    ):
        await client.close()
        assert target_state_of(client).slots.in_flight == 0
        with pytest.raises(StreamBrokenError, match="the client was closed"):
            await stream.answer()


async def test_close_ends_a_stream_that_has_not_begun():
    async with served([CUT[: -len(HELLO)], End.HANG]) as server, client_of(server) as client:
        opening = asyncio.create_task(client.stream("chat/completions", PAYLOAD).opened())
        await server.asked()
        await asyncio.sleep(0.02)
        await client.close()
        assert (await closed(opening)).attempts == 1


async def test_close_does_not_wait_for_a_key_function():
    async def key():
        await asyncio.sleep(60.0)
        return "never"

    async with served() as server, client_of(server, api_key=key) as client:
        asking = asyncio.create_task(client.chat(SAY))
        await asyncio.sleep(0.02)
        await client.close()
        await closed(asking)
        assert server.requests == []


async def test_a_cancel_by_the_caller_takes_precedence_over_close():
    async with served([End.HANG]) as server, client_of(server) as client:
        asking = asyncio.create_task(client.chat(SAY))
        await server.asked()
        asking.cancel()
        await client.close()
        with pytest.raises(asyncio.CancelledError):
            await asking


def elsewhere(client, results):
    """Make a call on a new loop, in a thread."""

    async def ask():
        try:
            results.append(await client.chat(SAY))
        except ClientClosedError as error:
            results.append(error)

    thread = threading.Thread(target=asyncio.run, args=(ask(),), daemon=True)
    thread.start()
    return thread


async def test_close_does_not_end_calls_on_other_loops():
    results = []
    async with served([0.2, answer()], answer()) as server:
        client = client_of(server)
        thread = elsewhere(client, results)
        await server.asked()
        await client.close()
        await closed(client.chat(SAY))
        await asyncio.to_thread(thread.join, 5)
        assert (results[0].text, results[0].attempts) == ("fine", 1)


async def test_stop_ends_calls_on_every_loop():
    results = []
    async with served([End.HANG]) as server:
        client = client_of(server)
        threads = [elsewhere(client, results) for _ in range(2)]
        await server.asked(2)
        client.stop()
        for thread in threads:
            await asyncio.to_thread(thread.join, 5)
        assert [type(each) for each in results] == [ClientClosedError] * 2
        await closed(client.chat(SAY))
        await client.close()
        await server.all_closed()


async def test_a_client_of_a_removed_target_can_be_closed(tmp_path):
    path, target = tmp_path / "settings.toml", '[targets.{}]\nbase_url = "http://127.0.0.1:9/v1"\n'
    path.write_text(target.format("main") + target.format("spare"))
    async with load(path) as settings, settings.client("main"):
        path.write_text(target.format("spare"))
        settings.reload()


async def test_closing_settings_closes_their_clients(tmp_path):
    path = tmp_path / "settings.toml"
    async with served([End.HANG]) as server:
        path.write_text(f'[targets.main]\nbase_url = "{server.base_url}"\nmodel = "m"\n')
        settings = load(path)
        one, other = settings.client("main"), settings.client("main")
        asking = asyncio.create_task(one.chat(SAY))
        await server.asked()
        await other.close()
        assert not asking.done()
        await settings.close()
        await closed(asking)
        await closed(one.chat(SAY))
        await server.all_closed()
        assert len(server.requests) == 1


async def test_closing_settings_breaks_a_stream_of_a_dropped_client(tmp_path):
    path = tmp_path / "settings.toml"
    async with served([CUT, End.HANG]) as server:
        path.write_text(f'[targets.main]\nbase_url = "{server.base_url}"\nmodel = "m"\n')
        settings = load(path)
        stream = await settings.client("main").stream("chat/completions", PAYLOAD)
        gc.collect()
        await settings.close()
        async with asyncio.timeout(30):
            with pytest.raises(StreamBrokenError, match="the client was closed"):
                await stream.answer()
        await stream.aclose()
        await server.all_closed()
