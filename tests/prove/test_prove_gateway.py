"""A minute of bad clients before bad providers, while the file changes: in the end nothing is held, and no mistake is logged."""

import asyncio
import random
import time
from contextlib import suppress
from decimal import Decimal

import pytest
from gateways import CHAT, KEY, OTHER, PROVIDER_KEY, request_bytes, running, settings, until
from malformed_requests import MALFORMED

from stormbreak.testing import serve

pytestmark = pytest.mark.prove

SECONDS = 30.0
LANES = 60
FAULTS = {
    "503": 0.05, "reset": 0.03, "cut_body": 0.03, "stall": 0.02, "stream_reset": 0.03, "429": 0.05, "html_200": 0.02,
    "error_early": 0.02,
}  # fmt: skip
SCENARIO = "[provider]\nservice = 0.02\nvariation = 1\n" + "".join(
    f'[[faults]]\nkind = "{kind}"\nshare = {share}\n' for kind, share in FAULTS.items()
)
POLICY = "patience = 2\nattempt_timeout = 3\nstall_timeout = 1\ndeadline = 5\n"
GATEWAY = 'on_disconnect = "{}"\nledger = "spent.db"\nwaiting_comment = 0.05\n'
LIMITS = "rpm = {}\ntpm = 100_000_000\nmax_in_flight = 40\n"
SPEND = "[keys.other.spend]\nmax_usd = 50\n"


class Prices:
    def cost_of(self, usage):
        return Decimal("0.00001") * usage.total

    max_cost_of = max_cost_within = cost_of


def bytes_to_send(dice):
    """A request, good or bad, once or several times."""
    prompt = {"role": "user", "content": "x" * dice.randint(0, 20_000)}
    payload = {**CHAT, "max_tokens": 50, "messages": [prompt], "stream": dice.random() < 0.5}
    key = dice.choice([KEY, OTHER, KEY, "wrong"])
    data = request_bytes("/v1/chat/completions", payload, key=key)
    if dice.random() < 0.1:
        data = dice.choice([*MALFORMED.values()])
    return data * dice.choice([1, 1, 1, 1, 2, 3])


async def visit(port, dice):
    """Send some requests in pieces, read a little, and leave at any time, politely or not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for _ in range(dice.randint(1, 4)):
            data = bytes_to_send(dice)
            cut = dice.randint(0, len(data)) if dice.random() < 0.2 else len(data)
            writer.write(data[:cut])
            await asyncio.sleep(dice.random() * 0.05)
            writer.write(data[cut:])
            if dice.random() < 0.3:
                await asyncio.sleep(dice.random() * 0.1)
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(dice.choice([10, 1000, 100_000])), 3)
    except OSError:
        pass
    finally:
        if dice.random() < 0.3:
            writer.transport.abort()
        else:
            writer.close()


@pytest.mark.parametrize("mode", ["cancel", "finish"])
async def test_a_gateway_holds_nothing_after_bad_clients_before_bad_providers(
    mode, tmp_path, monkeypatch, caplog, no_words_about_providers
):
    monkeypatch.setenv("GATEWAY_TEST_KEY", PROVIDER_KEY)
    with serve(SCENARIO) as provider:

        def text(rpm):
            file = {"top": POLICY, "gateway": GATEWAY.format(mode), "more": SPEND}
            return settings(provider.base_url, key=LIMITS.format(rpm), **file)

        path = tmp_path / "gateway.toml"
        async with running(path, text(60_000), prices=lambda *_: Prices()) as gateway:
            end = time.monotonic() + SECONDS

            async def lane(seed):
                dice = random.Random(seed)
                while time.monotonic() < end:
                    await visit(gateway.gateway.port, dice)

            async def reloads():
                rpm = 60_000
                while time.monotonic() < end:
                    await asyncio.sleep(0.3)
                    rpm += 1
                    path.write_text(text(rpm))
                    assert await gateway.gateway.reload()

            await asyncio.gather(*(lane(seed) for seed in range(LANES)), reloads())
            server = gateway.gateway._server
            await until(lambda: server.connections == 0, 20)
            assert (server.busy, server.held) == (0, 0)
            for driver in (gateway.gateway._driver, gateway.gateway._limits.queues.driver):
                for state in driver.snapshot()["targets"].values():
                    assert (state["in_flight"], state["queued"]) == (0, 0)
            (account,) = gateway.gateway._limits.budgets._accounts.values()
            assert account._reserved == 0
            assert 0 < account.spent <= 50
            assert gateway.metric('outcomes_total{outcome="ok"}') > 100
    mistakes = [each for each in caplog.records if each.levelname == "ERROR"]
    assert mistakes == []
