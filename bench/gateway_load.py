"""The load of gateways beside plain proxies: `make gateway-load` writes a table of docs/gateway-compared.md.

One run, one subject after the other, each alone with the provider and the clients. CPU and memory are those of its process;
the provider's own times are subtracted where it says "added".
"""

import argparse
import asyncio
import gc
import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cores
from gateway import CONNECTIONS, INSTANT, all_requests
from gateway_clients import open_stream
from gateway_peers import KEY, PEERS, ROOT, Options, Peer, Route, Running, versions
from marked import Block
from partner import partner

TABLE = Block(
    ROOT / "docs" / "gateway-compared.md",
    "<!-- load: written by `make gateway-load` -->",
    "<!-- end of load -->",
)
ENVOY = ROOT / ".venv-envoy" / "bin" / "envoy"
NGINX = Path("/usr/sbin/nginx")
SLOW = {"LiteLLM", "Portkey"}
REQUESTS, FEW_REQUESTS = 100_000, 20_000
ALONE = 1_000  # one after the other
STREAMS = 1_000  # open at once
OPEN = '[provider]\nservice = 0.02\nvariation = 0\n[[faults]]\nkind = "stall"\n'
"""Half of each stream, and then silence: it stays open."""

EVENTS = 16 * 200  # of 200 streams one after the other; a stream of the mock provider has 16 events
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Load(NamedTuple):
    """What a subject needs. Times in seconds, memory in bytes."""

    started: float
    alone: Sequence[float]  # of requests one after the other
    cpu: float  # of a request
    rate: float  # requests a second by the clock
    event: float  # CPU of a streamed event
    fresh: int
    later: int  # after so many requests
    streaming: int | None  # with open streams; None: they did not open in time


# ---------------------------------------------------------------- plain proxies


def _nginx_settings(routes: Sequence[Route], _: Options) -> str:
    address = routes[0].main.removeprefix("http://").removesuffix("/v1")
    return f"""
daemon off; master_process off; pid nginx.pid; error_log stderr; worker_rlimit_nofile 8192;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  keepalive_requests 1000000;
  upstream provider {{ server {address}; keepalive 64; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{PORT};
    location / {{
      proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


PORT = "PORT_OF_THE_BENCH"
"""The place of the port in settings that hold it."""


def _with_port(file: Path, port: int) -> str:
    placed = file.with_suffix(".yaml")
    placed.write_text(file.read_text().replace(PORT, str(port)))
    return str(placed)


def _envoy_settings(routes: Sequence[Route], _: Options) -> str:
    host, port = routes[0].main.removeprefix("http://").removesuffix("/v1").split(":")
    return f"""
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {PORT}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: provider, timeout: 0s}}}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: provider
    type: STATIC
    circuit_breakers: {{thresholds: [{{max_connections: 8192, max_pending_requests: 8192, max_requests: 8192}}]}}
    load_assignment:
      cluster_name: provider
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}}}]}}]
"""


PROXIES = (
    Peer(
        "nginx",
        NGINX,
        _nginx_settings,
        lambda file, port: [
            str(NGINX), "-p", str(file.parent), "-c", _with_port(file, port),
        ],
    ),
    Peer(
        "envoy",
        ENVOY,
        _envoy_settings,
        lambda file, port: [
            str(ENVOY), "-c", _with_port(file, port), "--concurrency", "1", "-l", "error", "--disable-hot-restart",
        ],
    ),
)  # fmt: skip

# ---------------------------------------------------------------- measuring


def _cpu(gateway: Running) -> float:
    fields = Path(f"/proc/{gateway.process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _resident(gateway: Running) -> int:
    return int(Path(f"/proc/{gateway.process.pid}/statm").read_text().split()[1]) * _PAGE


def _request(gateway: Running | None, more: str = "") -> bytes:
    body = (
        f'{{"model":"chat","messages":[{{"role":"user","content":"{"x" * 550}"}}]{more}}}'.encode()
    )
    headers = {} if gateway is None else gateway.headers("chat")
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\n%bContent-Length: %d\r\n\r\n%b"
        % (KEY.encode(), lines, len(body), body)
    )


async def _measure(gateway: Running, requests: int) -> Load:
    gc.collect()
    port, fresh = gateway.port, _resident(gateway)
    plain, stream = _request(gateway), _request(gateway, ',"stream":true')
    await all_requests(port, plain, CONNECTIONS, 10)
    (alone,) = await all_requests(port, plain, 1, ALONE)
    before, began = _cpu(gateway), time.perf_counter()
    await all_requests(port, plain, CONNECTIONS, requests // CONNECTIONS)
    cpu, took = _cpu(gateway) - before, time.perf_counter() - began
    later = _resident(gateway)
    before = _cpu(gateway)
    await all_requests(port, stream, 8, EVENTS // 16 // 8)
    event = (_cpu(gateway) - before) / EVENTS
    return Load(gateway.started, alone, cpu / requests, requests / took, event, fresh, later, 0)


async def _open_streams(gateway: Running) -> int:
    """Open many streams that have begun and go on; return what its process holds then."""
    before = _resident(gateway)
    pairs = []
    for start in range(0, STREAMS, 50):
        opened = await asyncio.gather(
            *(open_stream(gateway, "chat", number) for number in range(start, start + 50))
        )
        for reader, _ in opened:
            async with asyncio.timeout(60):
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(f"a stream got {head[9:12].decode()}")
                await reader.readuntil(b"data: ")
        pairs += opened
    held = _resident(gateway) - before
    for _, writer in pairs:
        writer.close()
    return held


def measure(peer: Peer, requests: int, folder: Path) -> Load:
    """Measure one subject."""
    options = Options(attempt=600.0, in_flight=2 * STREAMS)
    with ExitStack() as stack:
        provider = stack.enter_context(partner(INSTANT))
        route = Route("chat", provider.base_url)
        with peer.running([route], folder, options) as gateway:
            load = asyncio.run(_measure(gateway, requests))
    with ExitStack() as stack:
        provider = stack.enter_context(partner(OPEN))
        route = Route("chat", provider.base_url)
        with peer.running([route], folder, options) as gateway:
            held: int | None = None
            with suppress(TimeoutError):
                held = asyncio.run(_open_streams(gateway))
    return load._replace(streaming=held)


def _alone() -> Sequence[float]:
    with partner(INSTANT) as provider:
        asyncio.run(all_requests(provider.port, _request(None), CONNECTIONS, 10))
        (alone,) = asyncio.run(all_requests(provider.port, _request(None), 1, ALONE))
        return alone


def _percentile(times: Sequence[float], share: float) -> float:
    return sorted(times)[int(share * len(times))]


def lines(loads: dict[str, Load | str], alone: Sequence[float]) -> list[str]:
    """The table: a line for each subject."""
    ours = loads["stormbreak"]
    assert isinstance(ours, Load)
    p50, p99 = statistics.median(alone), _percentile(alone, 0.99)
    rows = [
        (
            "| | requests per CPU second | of ours | requests/s | added p50 ms | added p99 ms | CPU us per streamed event |"
            " ready after s | MB fresh | MB after the requests | KB per open stream |"
        ),
        "|---" * 11 + "|",
    ]
    for name, load in loads.items():
        if isinstance(load, str):
            rows.append(f"| {name} | {load} |" + " |" * 9)
            continue
        cells = [
            f"{1 / load.cpu:,.0f}",
            f"{100 * ours.cpu / load.cpu:.0f} %",
            f"{load.rate:,.0f}",
            f"{(statistics.median(load.alone) - p50) * 1e3:.2f}",
            f"{(_percentile(load.alone, 0.99) - p99) * 1e3:.2f}",
            f"{load.event * 1e6:.0f}",
            f"{load.started:.1f}",
            f"{load.fresh / 2**20:.0f}",
            f"{load.later / 2**20:.0f}",
            "-" if load.streaming is None else f"{load.streaming / STREAMS / 1024:.0f}",
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def main() -> None:
    """Measure all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of requests")
    parser.add_argument("--print", action="store_true", help="do not touch the page")
    options = parser.parse_args()
    machine = cores.describe(["uvloop"], versions())
    alone = _alone()
    loads: dict[str, Load | str] = {}
    with TemporaryDirectory() as folder:
        for peer in (*PROXIES, *PEERS):
            if not peer.installed.exists():
                loads[peer.name] = "n/a: not installed"
                continue
            requests = int((FEW_REQUESTS if peer.name in SLOW else REQUESTS) * options.scale)
            try:
                loads[peer.name] = measure(peer, requests, Path(folder))
            except (RuntimeError, OSError, EOFError, TimeoutError) as error:
                print(peer.name, repr(error), file=sys.stderr)
                loads[peer.name] = f"n/a: {(str(error) or type(error).__name__).splitlines()[0]}"
    many, few = int(REQUESTS * options.scale), int(FEW_REQUESTS * options.scale)
    made = f"Made on {machine}. {many:,} requests, {few:,} to LiteLLM and Portkey."
    text = "\n".join([made, "", *lines(loads, alone), ""])
    if options.print:
        print(text)
    else:
        TABLE.write(text)


if __name__ == "__main__":
    main()
