"""Three gateways of two workers each under load, while members die, the store freezes and restarts, and the file changes."""

import asyncio
import os
import random
import signal
from contextlib import AsyncExitStack, suppress

import pytest
from fleet_stores import Server
from gateway_processes import Streams, cost, gateway, priced, refused, wait_for
from gateways import ASKED, CHAT, PROVIDER_KEY, TEN_CENTS, settings, until, upstream

pytestmark = pytest.mark.prove

STREAM = {**CHAT, "stream": True}
LIMIT = 2.0  # US dollars; an answer costs 0.00074


@pytest.fixture(autouse=True)
def provider_key(monkeypatch):
    monkeypatch.setenv("GATEWAY_TEST_KEY", PROVIDER_KEY)


async def answer(request, connection):
    await asyncio.sleep(0.02)
    return TEN_CENTS


async def test_three_gateways_never_exceed_a_limit_during_faults(tmp_path):
    """200 concurrent calls; a worker and a gateway are killed, and the store is frozen for 30 s and killed."""
    server = Server("valkey", tmp_path, durable=True).start()
    fleet = f"[fleet]\nurl = '{server.url}'\n"
    key = f"[keys.app.spend]\nmax_usd = {LIMIT}\n"
    statuses, done = [], False
    try:
        async with upstream() as provider, AsyncExitStack() as stack:
            provider.reply = answer
            text = priced(settings(provider.url, key=key, top=f"patience = 5\n{fleet}"))
            paths = [tmp_path / f"{number}.toml" for number in range(3)]
            found = [await stack.enter_async_context(gateway(path, text)) for path in paths]

            async def client():
                while not done:
                    to = random.choice(found)
                    with suppress(OSError, asyncio.IncompleteReadError):
                        statuses.append((await to.ask(ASKED)).status)
                    await asyncio.sleep(0.5 if statuses and statuses[-1] != 200 else 0.0)

            clients = [asyncio.create_task(client()) for _ in range(200)]
            await until(lambda: 200 in statuses, 60)
            os.kill(found[0].workers[0], signal.SIGKILL)
            await asyncio.sleep(2)
            found.pop().running.kill()
            found.append(await stack.enter_async_context(gateway(paths[2])))
            server.freeze()
            await asyncio.sleep(30)
            server.thaw()
            await asyncio.sleep(5)
            server.kill()
            await asyncio.sleep(1)
            server.start()
            with suppress(AssertionError):  # then the assertions below fail
                await until(lambda: cost(len(provider.seen)) >= 0.9 * LIMIT, 120)
            await asyncio.sleep(5)
            done = True
            await asyncio.gather(*clients)
            spent = cost(len(provider.seen))
    finally:
        server.thaw()
        server.kill()
    print(
        f"spent {spent:.6f} of {LIMIT} USD, {len(statuses)} answers, {statuses.count(200)} of them good"
    )
    assert spent <= LIMIT
    assert spent >= 0.9 * LIMIT  # killed members keep their last grant
    assert set(statuses) <= {200, 429, 503}  # 503: from a gateway whose parent was killed


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_call_fails_during_a_hundred_reloads(tmp_path, workers):
    async with upstream() as provider:
        provider.reply = answer
        path = tmp_path / "gateway.toml"
        texts = [settings(provider.url, key=f"rpm = {rpm}") for rpm in (60_000, 70_000, 80_000)]
        texts = [each.replace('admin_port = "none"', "admin_port = 0") for each in texts]
        async with gateway(path, texts[0], workers) as process:
            statuses, done = [], False

            async def client():
                while not done:
                    statuses.append((await process.ask()).status)

            clients = [asyncio.create_task(client()) for _ in range(20)]
            for turn in range(100):
                wrong = turn % 10 == 9
                path.write_text("[nonsense" if wrong else texts[turn % 3])
                kind = "failed" if wrong else "ok"
                before = await process.metric(f'reloads_total{{result="{kind}"}}')
                process.running.send_signal(signal.SIGHUP)
                await wait_for(process.metric, f'reloads_total{{result="{kind}"}}', int(before) + 1)
            done = True
            await asyncio.gather(*clients)
            assert await process.metric('reloads_total{result="failed"}') >= 10
    assert len(statuses) > 200
    assert set(statuses) == {200}


@pytest.mark.parametrize("workers", [1, 2])
async def test_every_stream_is_completed_after_sigterm_under_load(tmp_path, workers):
    async with upstream() as provider:
        provider.reply = streams = Streams()
        async with gateway(tmp_path / "gateway.toml", settings(provider.url), workers) as process:
            streaming = [asyncio.create_task(process.ask(STREAM)) for _ in range(200)]
            await until(lambda: len(provider.seen) == 200, 60)
            plain = [asyncio.create_task(process.ask()) for _ in range(50)]
            process.running.send_signal(signal.SIGTERM)
            await wait_for(refused, process)
            await asyncio.sleep(3)
            streams.end.set()
            replies = await asyncio.gather(*streaming)
            assert all(reply.body.endswith(b"data: [DONE]\n\n") for reply in replies)
            ended = await asyncio.gather(*plain, return_exceptions=True)
            assert {each.status for each in ended if not isinstance(each, Exception)} <= {200, 503}
            status, log = await process.ended()
    assert status == 0
    assert "Traceback" not in log
