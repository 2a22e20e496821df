"""Three gateways with one task: ours, LiteLLM's proxy and Portkey's, each configured as its documentation recommends.

Each is a process of its own. A route is a model name with a first deployment and, mostly, one to fall back to. The
Makefile installs the other two, each into a folder of its own.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import stormbreak

ROOT = Path(__file__).parent.parent
LITELLM = ROOT / ".venv-litellm" / "bin" / "litellm"
PORTKEY = ROOT / ".portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
KEY = "sk-bench-client-key"  # LiteLLM's has to begin so
MODEL = "storm-1"  # at the provider
ATTEMPT = 2.0  # seconds for an attempt, or for silence in a stream, unless a run needs more
START = 300.0  # seconds until a gateway must listen


class Route(NamedTuple):
    """A model that clients ask for: the addresses of its first deployment and of its fallback, each ending in `/v1`."""

    name: str
    main: str
    spare: str | None = None


class Options(NamedTuple):
    """What a run needs besides routes."""

    model: str = MODEL
    max_usd: float | None = None  # that may be spent
    store: str | None = None  # the address of a Valkey that replicas share
    attempt: float = ATTEMPT
    in_flight: int | None = None  # a limit above that of the default policy


class Running(NamedTuple):
    """A gateway that listens."""

    peer: "Peer"
    port: int
    process: subprocess.Popen[bytes]
    file: Path
    routes: Mapping[str, Route]
    options: Options
    started: float  # seconds until it listened

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def headers(self, model: str) -> dict[str, str]:
        """What a client has to send besides its key."""
        return self.peer.headers(self.routes[model], self.options)


class Peer(NamedTuple):
    """A gateway to compare."""

    name: str
    installed: Path
    settings: Callable[[Sequence[Route], Options], str]
    command: Callable[[Path, int], list[str]]
    headers: Callable[[Route, Options], dict[str, str]] = lambda *_: {}

    @contextmanager
    def running(
        self, routes: Sequence[Route], folder: Path, options: Options | None = None
    ) -> Iterator[Running]:
        """Run it until the block ends."""
        options = options or Options()
        port = free_port()
        file = folder / f"{self.name.lower()}-{port}.settings"
        file.write_text(self.settings(routes, options))
        environ = {**os.environ, **_ENVIRON}
        began = time.monotonic()
        with file.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(
                self.command(file, port), stdout=log, stderr=log, env=environ, cwd=folder
            )
        try:
            _listens(port, process, file.with_suffix(".log"))
            took = time.monotonic() - began
            by_name = {route.name: route for route in routes}
            yield Running(self, port, process, file, by_name, options, took)
        finally:
            process.kill()
            process.wait()


_ENVIRON = {
    "BENCH_KEY": "provider-key",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would fetch prices
    "TRUSTED_CUSTOM_HOSTS": "127.0.0.1",  # Portkey's; else it refuses local addresses
}


def free_port() -> int:
    """Find a port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _listens(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"it does not listen:\n{log.read_text()[-2000:]}")


# ---------------------------------------------------------------- ours
# The default policy. Only its times for an attempt are shorter than the defaults, as those of the others.


def _our_settings(routes: Sequence[Route], options: Options) -> str:
    lines = [f"attempt_timeout = {options.attempt}", f"stall_timeout = {options.attempt}"]
    if options.in_flight is not None:
        lines += ["[limit]", 'kind = "fixed"', f"max_in_flight = {options.in_flight}"]
    if options.store is not None:
        lines += ["[fleet]", f'url = "{options.store}"', 'name = "bench"']
    for route in routes:
        names = (
            [route.name] if route.spare is None else [f"{route.name}-main", f"{route.name}-spare"]
        )
        for name, address in zip(names, (route.main, route.spare), strict=False):
            lines += [f"[targets.{name}]", f'base_url = "{address}"']
            lines += ['provider = "openai"'] * (options.max_usd is not None)  # its prices
            lines += [f'model = "{options.model}"', 'api_key_env = "BENCH_KEY"']
        if route.spare is not None:
            lines += [f"[pools.{route.name}]", f"targets = {json.dumps(names)}"]
            lines += ['order = "in_order"']
    lines += ["[gateway]", 'admin_port = "none"', "access_log = false", "grace = 30"]
    lines += ["[keys.app]", f'sha256 = "{sha256(KEY.encode()).hexdigest()}"']
    if options.max_usd is not None:
        lines += ["[keys.app.spend]", f"max_usd = {options.max_usd}"]
    return "\n".join(lines)


def _our_command(file: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "stormbreak", "gateway", str(file), "--port", str(port)]


# ---------------------------------------------------------------- LiteLLM
# "Retries, fallbacks and cooldowns" and "Fallbacks" in its documentation: num_retries, fallbacks, allowed_fails and
# cooldown_time as in their examples, timeout and stream_timeout for an attempt. Budgets of a provider need no database.


def _litellm_settings(routes: Sequence[Route], options: Options) -> str:
    def deployment(name: str, address: str) -> dict[str, object]:
        model = f"openai/{options.model}"
        params = {"model": model, "api_base": address, "api_key": "os.environ/BENCH_KEY"}
        return {"model_name": name, "litellm_params": params}

    models = [deployment(route.name, route.main) for route in routes]
    models += [deployment(f"{route.name}-spare", route.spare) for route in routes if route.spare]
    router: dict[str, object] = {
        "num_retries": 2,
        "timeout": options.attempt,
        "stream_timeout": options.attempt,
        "allowed_fails": 3,
        "cooldown_time": 30,
        "fallbacks": [{route.name: [f"{route.name}-spare"]} for route in routes if route.spare],
    }
    if options.max_usd is not None:
        limit = {"budget_limit": options.max_usd, "time_period": "1d"}
        router["provider_budget_config"] = {"openai": limit}
    if options.store is not None:
        host, _, port = options.store.removeprefix("redis://").partition(":")
        router |= {"redis_host": host, "redis_port": int(port)}
    general = {"master_key": KEY}
    # JSON is YAML.
    return json.dumps(
        {"model_list": models, "router_settings": router, "general_settings": general}
    )


def _litellm_command(file: Path, port: int) -> list[str]:
    words = [str(LITELLM), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    return [*words, "--telemetry", "False"]


# ---------------------------------------------------------------- Portkey
# "Automatic retries" and "Fallbacks" in its documentation: five attempts at most for each target, Retry-After respected,
# a request timeout, and a fallback for every status that is not 2xx. A client sends it as a header.


def _portkey_headers(route: Route, options: Options) -> dict[str, str]:
    targets = [
        {
            "provider": "openai",
            "api_key": "provider-key",
            "custom_host": address,
            "override_params": {"model": options.model},
            "retry": {"attempts": 5, "use_retry_after_header": True},
            "request_timeout": int(options.attempt * 1000),
        }
        for address in (route.main, route.spare)
        if address is not None
    ]
    config = {"strategy": {"mode": "fallback"}, "targets": targets}
    return {"x-portkey-config": json.dumps(config)}


def versions() -> list[str]:
    """Name what is compared, with versions."""
    found = [f"stormbreak {stormbreak.__version__}"]
    installed = ROOT.glob(".venv-litellm/lib/*/site-packages/litellm-*.dist-info")
    found += [each.name.removesuffix(".dist-info").replace("-", " ") for each in installed]
    package = PORTKEY.parent.parent / "package.json"
    if package.exists():
        found.append(f"Portkey {json.loads(package.read_text())['version']}")
    return found


PEERS = (
    Peer("stormbreak", Path(sys.executable), _our_settings, _our_command),
    Peer("LiteLLM", LITELLM, _litellm_settings, _litellm_command),
    Peer(
        "Portkey",
        PORTKEY,
        lambda *_: "",
        lambda _, port: ["node", str(PORTKEY), f"--port={port}", "--headless"],
        _portkey_headers,
    ),
)
