"""Twenty-one faults against three gateways: `make gateway-faults` writes the tables of docs/gateway-compared.md.

A provider plays the fault, or the client, the operator or the store does. Clients are the SDK of openai as it comes, with its
own two retries. A fallback without faults stands behind each deployment, unless the fault concerns an account.
"""

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec

import cores
from gateway_clients import PATIENCE, Score, answers, ask, open_stream, read_slowly
from gateway_peers import PEERS, ROOT, Options, Peer, Route, Running, free_port, versions
from marked import Block
from stormbreak.cost.price_lookup import price_of
from stormbreak.fleet.store_rules import QUIET
from stormbreak.provider.in_thread import RunningProvider, serve
from stormbreak.types import Usage

TABLES = Block(
    ROOT / "docs" / "gateway-compared.md",
    "<!-- faults: written by `make gateway-faults` -->",
    "<!-- end of faults -->",
)
KEPT = ROOT / "bench-results" / "gateway-faults"
CALLS = 20  # of each kind, plain and streamed
QUICK = "[provider]\nservice = 0.02\nvariation = 0\n"


Result = Score | str
"""What clients got, or what happened in words."""

Meet = Callable[[Peer, Path], Awaitable[Result]]
NOT_READ_AGAIN = {
    "LiteLLM": "n/a: reads its file once; changes at run time need a database",
    "Portkey": "n/a: has no file; each request brings its configuration",
}
UNKNOWN = "n/a: not installed"
NO_BUDGET = {"Portkey": "n/a: budgets are a part of its hosted service"}


# ---------------------------------------------------------------- faults of the provider


class ProviderFault(NamedTuple):
    """A fault of the first deployment. Without `spare`, there is no fallback."""

    scenario: str | None  # None: nothing listens
    spare: bool = True
    calls: int = CALLS


def _always(*kinds: str) -> str:
    faults = [f'[[faults]]\nkind = "{kind}"\nmatch = "This is call"\n' for kind in kinds]
    return QUICK + "".join(faults)


PROVIDER_FAULTS = {
    "no response": ProviderFault(_always("hang")),
    "answer cut": ProviderFault(_always("cut_body")),
    "answer stalls": ProviderFault(_always("stall")),
    "malformed JSON": ProviderFault(_always("invalid_json")),
    "error in a 200": ProviderFault(_always("error_early", "error_in_200")),
    "no choices": ProviderFault(_always("empty_choices")),
    "429 in a 200": ProviderFault(_always("rate_limit_in_200")),
    "connection refused": ProviderFault(None),
    "429 storm": ProviderFault(
        QUICK + '[limit]\nkind = "window"\nrequests = 20\nperiod = 2\n', spare=False
    ),
    "brown-out": ProviderFault(
        "[provider]\nservice = 0.25\nvariation = 0\nslots = 4\nqueue = 100\n"
        '[[faults]]\nkind = "service"\nfactor = 4\nuntil = 4\n',
        spare=False,
    ),
    "outage": ProviderFault(QUICK + '[[faults]]\nkind = "503"\n', spare=False),
}


async def _provider_faults(peer: Peer, folder: Path, only: str) -> dict[str, Result]:
    """The faults of providers, each at a deployment of its own, behind one gateway."""
    faults = {name: fault for name, fault in PROVIDER_FAULTS.items() if only in name}
    scores: dict[str, Result] = {}
    with ExitStack() as stack:
        spare = stack.enter_context(_provider(QUICK))
        mains = {
            name: None if fault.scenario is None else stack.enter_context(_provider(fault.scenario))
            for name, fault in faults.items()
        }
        routes = [
            Route(
                _route(name),
                f"http://127.0.0.1:{free_port()}/v1" if main is None else main.base_url,
                spare.base_url if faults[name].spare else None,
            )
            for name, main in mains.items()
        ]
        gateway = stack.enter_context(peer.running(routes, folder))
        for name, main in mains.items():
            spare.reset()
            score = Score()
            for stream in (False, True):
                await ask(gateway, _route(name), range(faults[name].calls), score, stream=stream)
            if main is not None:
                score.attempts = _arrivals(main) + _arrivals(spare)
            scores[name] = score
            _progress(peer, name, score)
    return scores


def _provider(scenario: str) -> AbstractContextManager[RunningProvider]:
    return serve(scenario, answers=answers(200))


def _route(name: str) -> str:
    return name.replace(" ", "-")


def _arrivals(provider: RunningProvider) -> int:
    arrivals: int = provider.stats()["arrivals"]
    return arrivals


def _one(provider: RunningProvider) -> list[Route]:
    return [Route("chat", provider.base_url)]


# ---------------------------------------------------------------- faults of clients

READERS = 4
LARGE = " ".join(f"{number:010}" * 1_000 for number in range(800))  # 8 MB, in pieces of 10 KB
LEAVERS = 10
STREAM = "[provider]\nservice = 3\nvariation = 0\nprefill = 0.3\n"


async def _slow_readers(peer: Peer, folder: Path) -> Result:
    """Clients that read slower than the provider sends: what does the gateway hold?"""
    with (
        serve(QUICK, answers={"": LARGE}) as provider,
        peer.running(_one(provider), folder, Options(attempt=30.0)) as gateway,
    ):
        before = most = _resident(gateway)
        score = Score()

        async def one(number: int) -> None:
            reader, writer = await open_stream(gateway, "chat", number, window=2**16)
            saw, text = await read_slowly(reader, 2**16, 0.02)
            score.add(LARGE, text, saw)
            writer.close()

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, _resident(gateway))
                await asyncio.sleep(0.05)

        watching = asyncio.create_task(watch())
        try:
            await asyncio.gather(*map(one, range(READERS)))
        finally:
            watching.cancel()
        score.attempts = _arrivals(provider)
        score.note = f"memory +{(most - before) / 2**20:.0f} MB"
        return score


def _resident(gateway: Running) -> int:
    """The bytes of memory of its process."""
    pages = int(Path(f"/proc/{gateway.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def _leavers(peer: Peer, folder: Path, *, after_output: bool) -> Result:
    """Clients that leave: does the work for them at the provider end?"""
    with _provider(STREAM) as provider, peer.running(_one(provider), folder) as gateway:
        for number in range(LEAVERS):
            reader, writer = await open_stream(gateway, "chat", number)
            await _until(lambda: _arrivals(provider) > number)  # noqa: B023 - called at once
            if after_output:
                await asyncio.wait_for(reader.read(1), PATIENCE)
            writer.close()
        await _until(lambda: _abandoned(provider) == LEAVERS)
        return f"{_abandoned(provider)} of {LEAVERS} ended at the provider"


def _abandoned(provider: RunningProvider) -> int:
    abandoned: int = provider.stats()["clients"]["abandoned"]
    return abandoned


async def _until(holds: Callable[[], bool]) -> None:
    """Wait until something holds, for some seconds at most."""
    for _ in range(50):
        if holds():
            return
        await asyncio.sleep(0.1)


# ---------------------------------------------------------------- faults of operators


async def _sigterm(peer: Peer, folder: Path) -> Result:
    """SIGTERM while streams run."""
    with _provider(STREAM) as provider, peer.running(_one(provider), folder) as gateway:
        score = Score()
        asking = asyncio.create_task(ask(gateway, "chat", range(10), score, stream=True))
        await asyncio.sleep(1.7)
        gateway.process.terminate()
        await asking
        score.attempts = _arrivals(provider)
        return score


async def _reloads(peer: Peer, folder: Path, *, wrong: bool) -> Result:
    """The file is read again and again while calls are made; a wrong one changes nothing."""
    if peer.name in NOT_READ_AGAIN:
        return NOT_READ_AGAIN[peer.name]
    with _provider(QUICK) as provider, peer.running(_one(provider), folder) as gateway:
        if wrong:
            gateway.file.write_text("targets = 3")

        async def reload() -> None:
            while True:
                gateway.process.send_signal(signal.SIGHUP)
                await asyncio.sleep(0.05)

        reloading = asyncio.create_task(reload())
        score = Score()
        for number in range(2 * CALLS):
            await ask(gateway, "chat", range(5), score, stream=number % 2 == 1)
        reloading.cancel()
        score.attempts = _arrivals(provider)
        return score


# ---------------------------------------------------------------- money

MONEY = "[provider]\nservice = 0.2\nvariation = 0\nuse_max_tokens = true\n"
PRICED = "gpt-4.1-mini"
CAP = 0.05  # dollars: about thirty calls
MAX_TOKENS = 1000
REPLICAS = 3


def _over(provider: RunningProvider) -> float:
    """Dollars that the provider billed beyond the cap."""
    prices = price_of("openai", PRICED)
    assert prices is not None
    billed = provider.stats()["billed"].get(PRICED, {})
    usage = Usage(
        input_tokens=billed.get("input_tokens", 0), output_tokens=billed.get("output_tokens", 0)
    )
    return max(0.0, float(prices.cost_of(usage) - Decimal(str(CAP))))


async def _spend(gateway: Running, numbers: Sequence[int], score: Score) -> None:
    await ask(gateway, "chat", numbers, score, stream=False, max_tokens=MAX_TOKENS)


async def _budget(peer: Peer, folder: Path) -> Result:
    """200 calls at once with money for thirty."""
    if peer.name in NO_BUDGET:
        return NO_BUDGET[peer.name]
    options = Options(model=PRICED, max_usd=CAP)
    with _provider(MONEY) as provider, peer.running(_one(provider), folder, options) as gateway:
        score = Score()
        await _spend(gateway, range(200), score)
        score.attempts, score.over = _arrivals(provider), _over(provider)
        return score


class _Store:
    """A Valkey, or a Redis, on a port of its own."""

    def __init__(self, program: str, folder: Path) -> None:
        self._port = free_port()
        self._command = [program, "--port", str(self._port), "--bind", "127.0.0.1", "--save", ""]
        self._command += ["--dir", str(folder)]
        self.url = f"redis://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        time.sleep(0.5)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def _replicas(
    peer: Peer, provider: RunningProvider, program: str, folder: Path
) -> Iterator[tuple[list[Running], _Store]]:
    """Gateways that share a store."""
    store = _Store(program, folder)
    options = Options(model=PRICED, max_usd=CAP, store=store.url)
    try:
        with ExitStack() as stack:
            yield (
                [
                    stack.enter_context(peer.running(_one(provider), folder, options))
                    for _ in range(REPLICAS)
                ],
                store,
            )
    finally:
        store.kill()


async def _shared_budget(peer: Peer, folder: Path, *, trouble: str) -> Result:
    """One cap for three replicas, whose store is well, frozen, or started again empty."""
    if peer.name in NO_BUDGET:
        return NO_BUDGET[peer.name]
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        return "n/a: needs valkey-server or redis-server"
    with _provider(MONEY) as provider, _replicas(peer, provider, program, folder) as running:
        gateways, store = running
        await asyncio.sleep(QUIET + 1)  # a store that has just started grants no money
        score = Score()

        async def spend(numbers: range) -> None:
            await asyncio.gather(
                *(
                    _spend(gateway, numbers[place::REPLICAS], score)
                    for place, gateway in enumerate(gateways)
                )
            )

        await spend(range(15) if trouble else range(198))
        if trouble:
            await asyncio.sleep(2)
        if trouble == "frozen":
            store.process.send_signal(signal.SIGSTOP)
            await spend(range(15, 198))
            store.process.send_signal(signal.SIGCONT)
        elif trouble == "emptied":
            store.kill()
            store.start()
            await asyncio.sleep(2)
            await spend(range(15, 198))
        score.attempts, score.over = _arrivals(provider), _over(provider)
        return score


FAULTS: dict[str, Meet] = {
    "slow reader": _slow_readers,
    "client leaves before the first token": partial(_leavers, after_output=False),
    "client leaves after it": partial(_leavers, after_output=True),
    "SIGTERM during streams": _sigterm,
    "file read again during calls": partial(_reloads, wrong=False),
    "wrong file": partial(_reloads, wrong=True),
    "key over its budget, 200 calls at once": _budget,
    "three replicas, one budget": partial(_shared_budget, trouble=""),
    "their store freezes": partial(_shared_budget, trouble="frozen"),
    "their store is restarted empty": partial(_shared_budget, trouble="emptied"),
}

# ---------------------------------------------------------------- the table


async def _meet_all(peer: Peer, only: str) -> dict[str, Result]:
    if not peer.installed.exists():
        return {}
    results: dict[str, Result] = {}
    with TemporaryDirectory() as folder:
        if any(only in name for name in PROVIDER_FAULTS):
            results = await _provider_faults(peer, Path(folder), only)
        for name, meet in FAULTS.items():
            if only in name:
                try:
                    results[name] = await meet(peer, Path(folder))
                except (RuntimeError, TimeoutError) as error:
                    results[name] = f"n/a: {(str(error) or 'no end in time').splitlines()[0]}"
                _progress(peer, name, results[name])
    return results


def _progress(peer: Peer, name: str, result: Result) -> None:
    print(f"{peer.name:12}{name:40}{_cell(result):40}{_saw(result)}", file=sys.stderr, flush=True)


def _cell(result: Result) -> str:
    if isinstance(result, str):
        return result
    attempts = "-" if result.attempts is None else f"{result.attempts / result.calls:.2f}"
    parts = [f"{result.whole}/{result.calls}", attempts, str(result.false)]
    if result.over is not None:
        parts.append(f"${result.over:.4f}")
    return " / ".join(parts) + (f"; {result.note}" if result.note else "")


def _saw(result: Result) -> str:
    if isinstance(result, str):
        return "-"
    seen = sorted(result.saw.items(), key=lambda each: -each[1])
    return ", ".join(f"{count} x {what}" for what, count in seen)


def page(results: dict[str, dict[str, Result]]) -> str:
    """Both tables, and when and with what they were made."""
    names = [*results]
    head = [f"| | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    faults = [*PROVIDER_FAULTS, *FAULTS]

    def table(cell: Callable[[Result], str]) -> list[str]:
        return [
            *head,
            *(
                f"| {fault} | {' | '.join(cell(results[name].get(fault, UNKNOWN)) for name in names)} |"
                for fault in faults
            ),
        ]

    return "\n".join(
        [
            f"Made on {cores.describe(['openai'], versions())}.",
            "",
            "Whole answers / attempts per call / false successes, and dollars over the cap:",
            "",
            *table(_cell),
            "",
            "What the clients saw:",
            "",
            *table(_saw),
            "",
        ]
    )


def main() -> None:
    """Meet the faults, and write the page. What is not met again keeps its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="faults with this in their names")
    parser.add_argument("--peers", default=",".join(peer.name for peer in PEERS))
    options = parser.parse_args()
    for peer in PEERS:
        if peer.name in options.peers.split(","):
            results = _kept(peer) | asyncio.run(_meet_all(peer, options.only))
            KEPT.mkdir(parents=True, exist_ok=True)
            (KEPT / f"{peer.name}.json").write_bytes(msgspec.json.encode(results))
    TABLES.write(page({peer.name: _kept(peer) for peer in PEERS}))


def _kept(peer: Peer) -> dict[str, Result]:
    """The results of the last time."""
    file = KEPT / f"{peer.name}.json"
    if not file.exists():
        return {}
    return msgspec.json.decode(file.read_bytes(), type=dict[str, Result])


if __name__ == "__main__":
    main()
