"""The ledger of a gateway whose workers are killed repeatedly, against the account of the provider."""

import asyncio
import json
import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from gateway_processes import gateway
from gateways import ASKED, PROVIDER_KEY, TEN_CENTS, USED, settings, until, upstream

from stormbreak.gateway.usage_journal import journals_of
from stormbreak.gateway.usage_ledger import read_usage

pytestmark = pytest.mark.prove

ROUNDS, CLIENTS = 6, 40


@pytest.fixture(autouse=True)
def provider_key(monkeypatch):
    monkeypatch.setenv("GATEWAY_TEST_KEY", PROVIDER_KEY)


async def answer(request, connection):
    await asyncio.sleep(random.uniform(0.0, 0.05))
    if b'"stream":true' not in request.body.replace(b" ", b""):
        return TEN_CENTS
    connection.begin(200, "text/event-stream", [])
    for event in (
        {"choices": [{"index": 0, "delta": {"content": "a"}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": USED},
    ):
        connection.send(b"data: %b\n\n" % json.dumps(event).encode())
        await asyncio.sleep(0.02)
    connection.send(b"data: [DONE]\n\n")
    connection.end()
    return None


async def test_the_ledger_has_every_attempt_once_after_kills(tmp_path):
    path, ledger = tmp_path / "gateway.toml", tmp_path / "spent.db"
    answered = 0
    async with upstream() as provider:
        provider.reply = answer
        text = settings(provider.url, gateway='ledger = "spent.db"')
        for _ in range(ROUNDS):
            async with gateway(path, text) as served:
                done = asyncio.Event()

                async def client(served=served, done=done):
                    nonlocal answered
                    while not done.is_set():
                        payload = {**ASKED, "stream": random.random() < 0.5}
                        with suppress(OSError, asyncio.IncompleteReadError):
                            reply = await served.ask(payload)
                            answered += reply.status == 200 and reply.ending != "cut"

                clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
                await asyncio.sleep(random.uniform(1.0, 7.0))
                workers = served.workers
                os.kill(random.choice(workers), signal.SIGKILL)
                await asyncio.sleep(random.uniform(0.5, 2.0))
                workers = served.workers
                served.running.kill()
                done.set()
                await asyncio.gather(*clients)
                await until(
                    lambda w=workers: not any(Path(f"/proc/{p}/fd").exists() for p in w), 30
                )
        seen = len(provider.seen)
        async with gateway(path, text):  # adds the journals of killed processes
            pass
        await until(lambda: not journals_of(ledger), 30)
    found = {}
    for row, each in read_usage(ledger, lambda *_: None).items():
        attempts, tokens = found.get(row.kind, (0, 0))
        found[row.kind] = attempts + each.attempts, tokens + each.usage.total
    known, tokens = found["useful"]
    written = sum(attempts for attempts, _ in found.values())
    assert known > 500
    assert answered <= known
    assert tokens == known * (USED["prompt_tokens"] + USED["completion_tokens"])
    assert seen <= written <= seen + 2 * ROUNDS * CLIENTS
