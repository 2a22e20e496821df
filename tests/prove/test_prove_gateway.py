"""A minute of bad clients and bad providers while the file changes: at the end no resource is held and no error logged."""

import asyncio
import random
import resource
import statistics
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from gateways import CHAT, KEY, OTHER, PROVIDER_KEY, Prices, request_bytes, running, settings, until
from malformed_requests import MALFORMED

from stormbreak.testing import serve

pytestmark = pytest.mark.prove

SECONDS = 30.0
CLIENTS = 60
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


def bytes_to_send(dice):
    """The bytes of a valid or malformed request, once or several times."""
    prompt = {"role": "user", "content": "x" * dice.randint(0, 20_000)}
    payload = {**CHAT, "max_tokens": 50, "messages": [prompt], "stream": dice.random() < 0.5}
    key = dice.choice([KEY, OTHER, KEY, "wrong"])
    data = request_bytes("/v1/chat/completions", payload, key=key)
    if dice.random() < 0.1:
        data = dice.choice([*MALFORMED.values()])
    return data * dice.choice([1, 1, 1, 1, 2, 3])


async def visit(port, dice):
    """Send some requests in pieces, read a little, and close or abort the connection at any time."""
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
async def test_a_gateway_holds_no_resources_after_bad_clients_and_providers(
    mode, tmp_path, monkeypatch, caplog, no_words_about_providers
):
    monkeypatch.setenv("GATEWAY_TEST_KEY", PROVIDER_KEY)
    with serve(SCENARIO) as provider:

        def text(rpm):
            file = {"top": POLICY, "gateway": GATEWAY.format(mode), "more": SPEND}
            return settings(provider.base_url, key=LIMITS.format(rpm), **file)

        path = tmp_path / "gateway.toml"
        async with running(path, text(60_000), prices=lambda *_: Prices("0.00001")) as gateway:
            end = time.monotonic() + SECONDS

            async def client(seed):
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

            await asyncio.gather(*(client(seed) for seed in range(CLIENTS)), reloads())
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
    logged_errors = [each for each in caplog.records if each.levelname == "ERROR"]
    assert logged_errors == []


# ---------------------------------------------------------------- many clients

MANY = 10_000


@pytest.fixture
def process(tmp_path, monkeypatch):
    """A gateway in a child process with a fast provider; its port and a function for its resident bytes."""
    monkeypatch.setenv("GATEWAY_TEST_KEY", PROVIDER_KEY)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < MANY + 500:
        pytest.skip(f"needs {MANY + 500} open files, and may have {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with serve("[provider]\nservice = 0.001\nvariation = 0\n") as provider:
        path = tmp_path / "gateway.toml"
        path.write_text(settings(provider.base_url, gateway=f"max_connections = {MANY + 100}"))
        program = [sys.executable, "-m", "stormbreak", "gateway", path]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as running_:
            port = int(running_.stdout.readline().rpartition(":")[2])

            def resident():
                pages = Path(f"/proc/{running_.pid}/statm").read_text().split()[1]
                return int(pages) * resource.getpagesize()

            yield port, resident
            running_.kill()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def ask(port, key):
    """Send one request; return its status and the seconds that it took."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        writer.write(request_bytes("/v1/chat/completions", CHAT, key=key))
        status = int((await reader.readline()).split()[1])
        await reader.readuntil(b"\r\n\r\n")
    return status, time.monotonic() - began


async def test_ten_thousand_idle_connections_delay_no_request(process):
    port, resident = process
    for _ in range(20):
        await ask(port, KEY)
    before = resident()
    idle = []
    for _ in range(MANY // 100):
        opening = (asyncio.open_connection("127.0.0.1", port) for _ in range(100))
        idle += await asyncio.gather(*opening)
    asked = [await ask(port, KEY) for _ in range(200)]
    assert {status for status, _ in asked} == {200}
    assert statistics.median(took for _, took in asked) < 0.1
    assert (resident() - before) / MANY < 16_384, "bytes of a connection"
    more = [asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
    idle += await asyncio.gather(*more)
    assert (await ask(port, KEY))[0] == 503
    for _, writer in idle:
        writer.close()


async def test_a_key_guessed_ten_thousand_times_disturbs_no_valid_key(process):
    port, _ = process
    statuses = set()
    good = []

    async def guess(client):
        for number in range(MANY // 50):
            statuses.add((await ask(port, f"sb-guess-{client}-{number}"))[0])

    async def use():
        while True:
            good.append(await ask(port, KEY))

    using = asyncio.create_task(use())
    await asyncio.gather(*(guess(client) for client in range(50)))
    using.cancel()
    await asyncio.wait({using})
    assert statuses == {401, 429}
    assert len(good) > 50
    assert {status for status, _ in good} == {200}
