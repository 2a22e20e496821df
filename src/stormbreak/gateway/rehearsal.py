"""A rehearsal: play a storm to the gateway of a settings file, and measure it as its clients see it.

The first target, and others at its address, get the storm; every other address is a provider without faults. Keys,
limits of keys and ports of the file are not used. The gateway itself is real, with its policies, so its timers keep
real time.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec

from stormbreak.config import Settings, describe_settings, load_settings
from stormbreak.config.environment_overrides import PREFIX, PROFILE
from stormbreak.config.gateway_settings import KeySettings
from stormbreak.core.fallback_policy import Place, ToTargets
from stormbreak.core.policy import Policy
from stormbreak.core.presets import OFF
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.errors import ConfigurationError
from stormbreak.gateway.keys import digest_of, new_key
from stormbreak.gateway.process import Gateway
from stormbreak.hidden_keys import quote_model
from stormbreak.http.client import AsyncClient
from stormbreak.http.response import Response
from stormbreak.provider.scenario import Scenario
from stormbreak.provider.server import ProviderServer
from stormbreak.storm.ideal import ideal_throughput
from stormbreak.storm.live.scaling import rehearsal
from stormbreak.storm.measures import Measures, Observed, Record, measure
from stormbreak.storm.traffic import Traffic, check_measured, traffic
from stormbreak.types import CallResult, Verdict

ANY_MODEL = "storm-1"  # the requested model, if the file names no whole model
_FILE = "gateway.toml"
_GRACE = 1.0  # real seconds that a client waits for the status of a call after its deadline


class Progress(NamedTuple):
    """The progress of a rehearsal: scenario seconds, calls so far, and answered calls."""

    now: float
    calls: int
    answered: int


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What clients saw: `statuses` by number, "none" if no whole response came in time.

    A call was sent up to `late` real seconds after it was due.
    """

    measures: Measures
    statuses: Counter[str]
    model: str
    late: float


async def rehearse(
    path: str | os.PathLike[str],
    scenario: Scenario,
    *,
    seed: int,
    speed: float,
    model: str | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Rehearsed:
    """Play a scenario, made by `staged`, to the gateway of a file. By default clients ask for its first model.

    Raises ConfigurationError if the file is wrong or does not serve the model, or the scenario cannot be measured.
    """
    settings = load_settings(path)
    if not settings.targets:
        raise ConfigurationError(f"{path}: the file has no target, such as [targets.main]")
    if model is not None and settings.leads_to(model) is None:
        known = ", ".join(settings.model_names) or "there is none by its whole name"
        raise ConfigurationError(
            f"{path} does not serve the model {quote_model(model)}; known: {known}"
        )
    load = scenario.load
    assert load is not None, "it was staged"
    calls = traffic(load, scenario.duration, seed)
    check_measured(scenario, calls)
    key = new_key()
    async with AsyncExitStack() as stack:
        addresses = await _providers(stack, settings, scenario, seed, speed)
        storm = next(iter(addresses.values()))
        folder = Path(stack.enter_context(TemporaryDirectory()))
        file = folder / _FILE
        file.write_text(describe_settings(_staged(settings, addresses, key, load.deadline / speed)))
        with _without_overrides():
            gateway = Gateway(file)
        await gateway.start()
        stack.push_async_callback(gateway.close)
        model = model or next(iter(gateway.rules.leads), ANY_MODEL)
        clients = _Clients(scenario, storm, calls, model, progress)
        base_url = f"http://127.0.0.1:{gateway.port}/v1"
        async with AsyncClient(base_url=base_url, api_key=key, model=model, policy=OFF) as client:
            return await clients.call(client)


# ---------------------------------------------------------------- the file with mock providers in all places

Address = tuple[str | None, str | None]


async def _providers(
    stack: AsyncExitStack, settings: Settings, scenario: Scenario, seed: int, speed: float
) -> dict[Address, ProviderServer]:
    """Start a provider for each address of a target or a fallback; the first one gets the storm."""
    servers: dict[Address, ProviderServer] = {}
    addresses = [(target.provider, target.base_url) for target in settings.targets.values()]
    addresses += [
        (place.provider, place.base_url)
        for policy in (settings.policy, *(target.policy for target in settings.targets.values()))
        for rule in policy.fallback
        if isinstance(rule, ToTargets)
        for place in rule.targets
        if place.provider or place.base_url
    ]
    for address in addresses:
        if address not in servers:
            played = rehearsal(scenario) if servers else scenario
            server = servers[address] = ProviderServer(played, seed=seed, speed=speed)
            await server.start()
            stack.push_async_callback(server.close)
    return servers


def _staged(
    settings: Settings, servers: dict[Address, ProviderServer], key: str, deadline: float
) -> Settings:
    targets = {
        name: replace(
            target,
            provider=None,
            base_url=servers[target.provider, target.base_url].base_url,
            api_key_env=None,
            api_key_file=None,
            allow_http=False,
            policy=_staged_policy(target.policy, servers),
        )
        for name, target in settings.targets.items()
    }
    gateway = replace(
        settings.gateway, host="127.0.0.1", port=0, admin_port=None, access_log=False, ledger=None
    )
    return replace(
        settings,
        policy=_staged_policy(settings.policy, servers),
        targets=targets,
        gateway=gateway,
        keys={"rehearsal": KeySettings(sha256=digest_of(key.encode()), deadline=deadline)},
        tenants={},
        prices=(),
    )


def _staged_policy(policy: Policy, servers: dict[Address, ProviderServer]) -> Policy:
    """Also send its fallbacks to mock providers; without dollars, and without a cache on disk."""
    rules = tuple(
        replace(rule, targets=tuple(_staged_place(each, servers) for each in rule.targets))
        if isinstance(rule, ToTargets)
        else rule
        for rule in policy.fallback
    )
    return replace(
        policy, fallback=rules, spend=SpendPolicy(), cache=replace(policy.cache, path=None)
    )


def _staged_place(place: Place, servers: dict[Address, ProviderServer]) -> Place:
    model = place.model or (None if place.models else ANY_MODEL)
    server = servers.get((place.provider, place.base_url))
    base_url = None if server is None else server.base_url
    return replace(place, provider=None, base_url=base_url, api_key_env=None, model=model)


@contextmanager
def _without_overrides() -> Iterator[None]:
    """Hide environment variables that change settings: the staged file has them, without real addresses."""
    names = [name for name in os.environ if name.startswith(PREFIX) or name == PROFILE]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


# ---------------------------------------------------------------- the clients


class _Clients:
    """The calls of clients that do not retry, each with the deadline of the scenario."""

    def __init__(
        self,
        scenario: Scenario,
        server: ProviderServer,
        calls: Traffic,
        model: str,
        progress: Callable[[Progress], None],
    ) -> None:
        assert scenario.load is not None
        self._scenario = scenario
        self._load = scenario.load
        self._server = server
        self._calls = calls
        self._model = model
        self._progress = progress
        self._records: dict[int, Record] = {}
        self._statuses: Counter[str] = Counter()
        self._late = 0.0

    async def call(self, client: AsyncClient) -> Rehearsed:
        """Send every call when it is due, and wait for the last one."""
        server = self._server
        server.begin()
        async with asyncio.TaskGroup() as tasks:
            for number, at in enumerate(self._calls.times):
                await asyncio.sleep(max(0.0, at - server.now) / server.speed)
                self._late = max(self._late, (server.now - at) / server.speed)
                tasks.create_task(self._one(client, number, at))
                self._progress(Progress(server.now, number + 1, self._statuses["200"]))
        records = [self._records[number] for number in range(len(self._calls.times))]
        ideal = ideal_throughput(self._scenario, self._calls.times)
        work = server.stats()["clients"]
        wasted = work["wasted_seconds"] / work["work_seconds"] if work["work_seconds"] else 0.0
        observed = Observed((), wasted, openings=0)
        measures = measure(records, ideal, self._load, observed, duration=self._scenario.duration)
        return Rehearsed(measures, self._statuses, self._model, self._late)

    async def _one(self, client: AsyncClient, number: int, at: float) -> None:
        deadline = self._load.deadline
        messages = [{"role": "user", "content": f"call {number} of a rehearsal"}]
        body = msgspec.json.encode({"model": self._model, "messages": messages})
        ended = await client.ask(
            "chat/completions", body, deadline=deadline / self._server.speed + _GRACE
        )
        now = self._server.now
        good = ended.outcome.verdict is Verdict.OK and now <= at + deadline
        self._records[number] = Record(at, now, good, _attempts(ended), 0.0)
        status = ended.outcome.status
        self._statuses[
            "none" if status is None or (status == 200 and not good) else str(status)
        ] += 1


def _attempts(ended: CallResult) -> int:
    """Return the number of attempts that the gateway made for a call; 1 if it did not report it."""
    response = ended.outcome.value
    if not isinstance(response, Response) or response.original is None:
        return 1
    return int(response.original.headers.get("x-stormbreak-attempts", "0"))
