"""Figures of docs/background/fleet.md: members on a real Valkey, what a report costs it, what leases cost a call.

python bench/fleet.py [SECONDS] [members | calm | reports | calls]; needs valkey-server.
"""

import asyncio
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from itertools import product
from tempfile import TemporaryDirectory
from typing import Any

import redis

import stormbreak
from stormbreak import AsyncClient
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.fleet_lease import Ramp
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.cost.spend_gate import SpendAccounts
from stormbreak.cost.token_prices import Prices, Rate, Rates, Source
from stormbreak.drivers.virtual_time import Timeline
from stormbreak.fleet.messages import Message, RateReport, Report, SlotReport
from stormbreak.fleet.valkey import ValkeyStore, key_of
from stormbreak.fleet.virtual import VirtualStore
from stormbreak.provider.in_thread import serve
from stormbreak.types import Call, Outcome, Target, Usage, Verdict

RATES = 10.0, 50.0  # per second
MEMBERS = 20
SECONDS = 20.0
ROUNDS = 5  # of the cost of a call
TARGET = Target("provider", "model")


@contextmanager
def server() -> Iterator[str]:
    """Run a Valkey; yield its URL."""
    if shutil.which("valkey-server") is None:
        raise SystemExit("needs valkey-server")
    with socket.socket() as probe, TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()
        command = ["valkey-server", "--port", port, "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(0.5)
        try:
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


# ---------------------------------------------------------------- members on a real store


async def waits(url: str, *, rate: float, busy: int, load: float, seconds: float) -> str:
    """Let `busy` of the members call at `load` times the quota; describe how long calls waited.

    One process with the whole quota, and without a fleet, gets the same calls at the same times.
    """
    shared = FleetPolicy(url=url, name=f"{busy} busy at {load} of {rate}")
    alone = Policy(rate_limit=RateLimitPolicy(rpm=rate * 60), adaptive_rate=False, patience=30.0)
    waited: dict[float, float] = {}
    waited_alone: dict[float, float] = {}

    def process(policy: Policy, waits: dict[float, float]) -> Callable[[float], Awaitable[None]]:
        @stormbreak.resilient(policy, target="x")
        async def call(start: float) -> None:
            waits[start] = time.monotonic() - start

        return call

    members = [process(replace(alone, fleet=shared), waited) for _ in range(MEMBERS)]
    one = process(alone, waited_alone)
    await asyncio.gather(*(each(time.monotonic()) for each in members))
    await asyncio.sleep((MEMBERS + 2 * rate) / rate)  # until the first burst is whole
    waited.clear()
    client = redis.Redis.from_url(url)
    chance, start, before = random.Random(1), time.monotonic(), _scripts(client)
    at = start
    calls: list[Awaitable[None]] = []
    while at < start + seconds:
        at += chance.expovariate(rate * load)
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        calls += (
            asyncio.ensure_future(each(at)) for each in (members[chance.randrange(busy)], one)
        )
    used = len(waited) / (rate * seconds)
    scripts = (_scripts(client) - before) / seconds
    client.close()
    await asyncio.gather(*calls, return_exceptions=True)
    added = (waited[at] - waited_alone[at] for at in waited.keys() & waited_alone.keys())
    return (
        f"used {used:.2f} of the quota, {_waits(waited.values())}; "
        f"one process alone: {_waits(waited_alone.values())}; "
        f"a call waited longer in the fleet: {_waits(added)}; {scripts:.1f} scripts a second"
    )


def _waits(seconds: Iterable[float]) -> str:
    ordered = sorted(seconds)
    half, most = (1000 * ordered[len(ordered) * part // 100] for part in (50, 99))
    return f"median {half:.0f} ms, 99 % within {most:.0f} ms"


# ---------------------------------------------------------------- calm processes

CALM: dict[str, dict[str, Any]] = {
    "a rate limit": {"rate_limit": RateLimitPolicy(rpm=RATES[-1] * 60)},
    "a fixed limit": {"limit": FixedLimit(max_in_flight=100)},
    "a spend limit": {"spend": SpendPolicy(max_usd=50.0, period=86_400.0)},
}
CALM["a rate and a spend limit"] = CALM["a rate limit"] | CALM["a spend limit"]
CALM["all three"] = CALM["a rate and a spend limit"] | CALM["a fixed limit"]
EVERY = 8.0  # seconds
LISTED = Prices(
    provider="any",
    model="any",
    standard=Rates(input=Rate(Decimal(1)), output=Rate(Decimal(10))),
    listed_as="any",
    source=Source(name="bench"),
)


def calm_fleet(seconds: float) -> Iterator[str]:
    """Let processes make a call every EVERY seconds under one policy after another; describe how often they ask."""
    with server() as url, serve("bench") as provider:
        client = redis.Redis.from_url(url)
        command = [sys.executable, __file__, str(seconds), "process", url, provider.base_url]
        members = [
            subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for n in range(MEMBERS)
        ]
        for name in CALM:
            for member in members:
                member.stdout.readline()  # type: ignore[union-attr]
            for member in members:
                member.stdin.write(b"go\n")  # type: ignore[union-attr]
                member.stdin.flush()  # type: ignore[union-attr]
            time.sleep(EVERY)
            trips, scripts = _trips(client), _scripts(client)
            time.sleep(seconds)
            found = ((_trips(client) - trips - 2) / seconds, (_scripts(client) - scripts) / seconds)
            yield f"{MEMBERS} calm, {name}: {found[0]:.1f} round trips a second, {found[1]:.1f} scripts"
        for member in members:
            member.communicate()


async def process(seconds: float, url: str, base_url: str, number: int) -> None:
    """Make calls under one policy after another; the first within EVERY seconds."""
    chance = random.Random(number)
    for name, limits in CALM.items():
        shared = FleetPolicy(url=url, name=name)
        policy = replace(Policy(fleet=shared, adaptive_rate=False), **limits)
        print("ready", flush=True)
        sys.stdin.readline()
        end = time.monotonic() + EVERY + seconds
        client = AsyncClient(base_url=base_url, policy=policy, prices=lambda *_: LISTED)
        async with client:
            at = time.monotonic() + chance.uniform(0.0, EVERY)
            while at < end:
                await asyncio.sleep(at - time.monotonic())
                await client.chat([{"role": "user", "content": "x"}], model="m", max_tokens=50)
                at += chance.expovariate(1 / EVERY)
            await asyncio.sleep(max(0.0, end - time.monotonic()))


def _trips(client: "redis.Redis") -> int:
    """Return how often anybody has sent something; each question of this kind is one."""
    return int(client.info("stats")["total_reads_processed"])


# ---------------------------------------------------------------- cost of a report


def report_cost(url: str, members: int) -> str:
    """Describe what a report costs the server in a scope of so many members."""
    store, client = ValkeyStore(url), redis.Redis.from_url(url)
    report = Report(
        requests=RateReport(600.0, 1.0, 5.0, 1.0), slots=SlotReport(10.0, 1.0, 2.0, 1.0)
    )
    messages = [Message(f"cost/{members}", f"{number:012}", report) for number in range(members)]
    store.beat(messages)
    best = 1.0
    for _ in range(8):
        before = _cpu(client)
        for _ in range(100):
            store.beat(messages[:2])
        best = min(best, (_cpu(client) - before) / 100 / len(messages[:2]))
    size = client.memory_usage(key_of(f"cost/{members}"), samples=0)
    store.close()
    client.close()
    return f"{members} members: {1e6 * best:.0f} us of the server, {size} bytes"


def _scripts(client: "redis.Redis") -> int:
    stats = client.info("commandstats")
    return sum(
        int(stats.get(f"cmdstat_{each}", {}).get("calls", 0)) for each in ("eval", "evalsha")
    )


def _cpu(client: "redis.Redis") -> float:
    used = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


# ---------------------------------------------------------------- cost of a call


def call_cost(policy: Policy, *, fleet: bool) -> float:
    """Return the CPU seconds of a call in the queue of a target, with all leases at hand."""
    store = VirtualStore(Timeline(100.0))
    accounts = SpendAccounts(lambda *_: LISTED)
    engine = Engine(policy, accounts, fleet=store.fleet() if fleet else None)
    state = engine.target_state(TARGET)
    account = accounts.account(policy.spend)
    if account is not None and account.lease is not None:
        account.lease.begin(1.0)
        account.lease.granted = 10**12
    if state.lease is not None:
        if state.lease.requests is not None:
            state.lease.requests.add(Ramp(0.0, 0.0, 1e9, 1e9))
        if state.lease.slots is not None:
            state.lease.slots.set_cap(100, 1e9)
    used = Usage(input_tokens=10, output_tokens=10)
    call, answered = (
        Call(1, TARGET, deadline_at=1_000.0, bound=used),
        Outcome(Verdict.OK, usage=used),
    )
    best = 1.0
    for _ in range(150):
        start = time.process_time()
        for _ in range(1_000):
            permit = state.admission.enter(call, 100.0, 200.0)
            permit.settle(answered, 100.0, 0.5)  # type: ignore[union-attr]
        best = min(best, (time.process_time() - start) / 1_000)
    return best


def main() -> None:
    """Print the figures that are asked for."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    if sys.argv[2:3] == ["process"]:
        _, _, _, url, base_url, number = sys.argv
        asyncio.run(process(seconds, url, base_url, int(number)))
        return
    asked = sys.argv[2:] or list(PARTS)
    for name in asked:
        for line in PARTS[name](seconds):
            print(line, flush=True)


def members_share(seconds: float) -> Iterator[str]:
    """Let few or all members call, much or little, under a small and a large quota."""
    with server() as url:
        for rate, busy, load in product(RATES, (2, MEMBERS), (1.2, 0.8)):
            found = asyncio.run(waits(url, rate=rate, busy=busy, load=load, seconds=seconds))
            yield f"{rate * 60:.0f} a minute, {busy} of {MEMBERS} busy, load {load}: {found}"


def report_costs(_seconds: float) -> Iterator[str]:
    """Report in scopes of several sizes."""
    with server() as url:
        yield from (report_cost(url, members) for members in (1, 20, 50, 200))


def call_costs(_seconds: float) -> Iterator[str]:
    """Call with and without a fleet."""
    quota = RateLimitPolicy(rpm=1e12, burst_seconds=1e6)
    fixed = FixedLimit(max_in_flight=100)
    alone = Policy(adaptive_rate=False)
    shared = FleetPolicy(url="redis://in-virtual-time")
    for name, policy in {
        "a rate limit": replace(alone, rate_limit=quota),
        "a fixed limit": replace(alone, limit=fixed),
        "both": replace(alone, rate_limit=quota, limit=fixed),
        "a spend limit": replace(alone, spend=SpendPolicy(max_usd=1e6)),
    }.items():
        costs = [
            (call_cost(policy, fleet=False), call_cost(replace(policy, fleet=shared), fleet=True))
            for _ in range(ROUNDS)
        ]
        before, after = (1e6 * min(each) for each in zip(*costs, strict=True))
        yield f"{name}: {before:.2f} us a call, {after - before:+.2f} us in a fleet"


PARTS = {
    "members": members_share,
    "calm": calm_fleet,
    "reports": report_costs,
    "calls": call_costs,
}


if __name__ == "__main__":
    main()
