"""`stormbreak gateway FILE`: serve, or check what would be served."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from stormbreak.cli.command import flag, option, options, subcommand
from stormbreak.cli.options import FILE, PORT, Integer
from stormbreak.cli.output import say, warn
from stormbreak.config.gateway_settings import GatewaySettings
from stormbreak.drivers.garbage import collect_less_often
from stormbreak.gateway.lifecycle import Lifecycle, log_to_stderr
from stormbreak.gateway.parent import GatewayParent
from stormbreak.gateway.process import Gateway, check, with_options
from stormbreak.gateway.summary import summarise
from stormbreak.http.endpoint import is_loopback
from stormbreak.http.h1.server import new_loop

MAX_WORKERS = 128


@subcommand(
    "stormbreak gateway gateway.toml",
    "stormbreak gateway gateway.toml --host 0.0.0.0 --port 8080 --workers 4",
    "stormbreak gateway gateway.toml --check",
)
@click.argument("file", type=FILE, metavar="FILE")
@options(
    "Options",
    option("--host", "ADDRESS", "Address to listen on.", show_default="that of FILE, 127.0.0.1"),
    option("--port", PORT, "Port to listen on; 0 picks a free one.", show_default="8080"),
    option("--admin-host", "ADDRESS", "Address of the admin port.", show_default="127.0.0.1"),
    option(
        "--admin-port", PORT, "Port of /live, /ready, /metrics and /state.", show_default="9464"
    ),
    option("--workers", Integer(1, MAX_WORKERS), "Serve in N processes.", default=1),
    flag("--check only_check", "Check FILE, say what each key may do, and exit."),
)
def command(
    file: Path,
    *,
    host: str | None,
    port: int | None,
    admin_host: str | None,
    admin_port: int | None,
    workers: int,
    only_check: bool,
) -> None:
    """Serve the APIs of OpenAI and Anthropic on the targets and pools of FILE.

    FILE is a settings file with [gateway] and [keys.NAME]. SIGHUP, or a change of FILE, reads it again; SIGTERM lets
    answers end.
    """
    change = partial(
        with_options, host=host, port=port, admin_host=admin_host, admin_port=admin_port
    )
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_check(file) if only_check else _serve(file, change, workers))


async def _check(file: Path) -> None:
    say("\n".join(summarise(check(file))))
    say(f"{file}: ok")


async def _serve(
    file: Path, change: Callable[[GatewaySettings], GatewaySettings], workers: int
) -> None:
    gateway: Lifecycle
    gateway = (
        Gateway(file, change) if workers == 1 else GatewayParent(file, change, workers=workers)
    )
    log_to_stderr()
    for name in ("host", "admin_host"):
        address = getattr(gateway.settings, name)
        if not is_loopback(address):
            warn(
                f"{name} {address} is beyond this machine: put a proxy with TLS in front, since keys travel in the clear"
            )
    await gateway.run(_started)


def _started(gateway: Lifecycle) -> None:
    collect_less_often()
    settings = gateway.settings
    say(f"listening on {_url(settings.host, gateway.port)}")
    if gateway.admin_port is not None:
        say(f"admin on {_url(settings.admin_host, gateway.admin_port)}")


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
