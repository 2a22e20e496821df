"""The provider for tests and scripts: in its own thread, so that blocking code can call it too."""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from stormbreak.http.h1.server import new_loop
from stormbreak.provider.counters import Billed
from stormbreak.provider.scenario import Scenario
from stormbreak.provider.scenario_file import answers_of, load, parse
from stormbreak.provider.server import ProviderServer

_PATIENCE = 10.0

T = TypeVar("T")


class RunningProvider:
    """A provider that listens, seen from outside its thread."""

    def __init__(self, server: ProviderServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop

    @property
    def base_url(self) -> str:
        """The address to give to clients; ends in `/v1`."""
        return self._server.base_url

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def scenario(self) -> Scenario:
        return self._server.scenario

    def stats(self) -> dict[str, Any]:
        """Return the counts since the start or the last reset."""
        return self._ask(self._server.stats)

    def billed(self) -> dict[str, Billed]:
        """The billed attempts so far, by digest of the request: see `request_digest` in `provider.formats.registry`."""
        return self._ask(lambda: dict(self._server.billing.by_digest))

    def reset(self) -> None:
        """Restart the scenario with the next request."""
        self._ask(self._server.reset)

    def _ask(self, question: Callable[[], T]) -> T:
        async def answer() -> T:
            return question()

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result(_PATIENCE)


def scenario_of(source: str | Path | Scenario) -> Scenario:
    """Return a scenario from a value, TOML (anything with a line break), a name or a path."""
    if isinstance(source, Scenario):
        return source
    if isinstance(source, str) and "\n" in source:
        return parse(source)
    return load(source)


@contextmanager
def serve(
    scenario: str | Path | Scenario = "calm",
    *,
    seed: int = 0,
    speed: float | None = None,
    port: int = 0,
    answers: Mapping[str, str | Mapping[str, Any]] | None = None,
) -> Iterator[RunningProvider]:
    """Serve a scenario until the block ends; `answers` go before its own. Raises ConfigurationError if it cannot."""
    played = scenario_of(scenario)
    if answers:
        played = replace(played, answers=(*answers_of(answers), *played.answers))
    server = ProviderServer(played, seed=seed, speed=speed)
    loop = new_loop()
    thread = threading.Thread(target=loop.run_forever, name="stormbreak-provider", daemon=True)
    try:
        thread.start()
    except BaseException:
        loop.close()
        raise
    try:
        asyncio.run_coroutine_threadsafe(server.start(port), loop).result(_PATIENCE)
        yield RunningProvider(server, loop)
    finally:
        if not sys.is_finalizing():  # else the block was never left, and the thread has ended
            asyncio.run_coroutine_threadsafe(server.close(), loop).result(_PATIENCE)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_PATIENCE)
            loop.close()
