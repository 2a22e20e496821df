"""`stormbreak provider`: the embedded provider on a port of this machine."""

import asyncio
import signal

import click

from stormbreak.cli.numbers import Number
from stormbreak.cli.output import say
from stormbreak.provider.field_ranges import MAX_SPEED, MIN_SPEED
from stormbreak.provider.scenario_file import builtin_names, load
from stormbreak.provider.server import ProviderServer, new_loop


@click.group()
def command() -> None:
    """Run an embedded provider that speaks the OpenAI API and plays storms."""


@command.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8900,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--scenario",
    metavar="NAME|FILE",
    default="calm",
    show_default=True,
    help=f"A TOML file, or one of: {', '.join(builtin_names())}.",
)
@click.option(
    "--speed",
    type=Number(MIN_SPEED, MAX_SPEED),
    help="Scenario seconds in one real second; each scenario has its own default.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The same seed, the same storm.",
)
def serve(port: int, scenario: str, speed: float | None, seed: int) -> None:
    """Serve a scenario on 127.0.0.1 until interrupted.

    Scenario time begins with the first request; POST /_provider/reset begins it anew. GET /_provider/stats tells
    what happened.
    """
    server = ProviderServer(load(scenario), seed=seed, speed=speed)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_serve_until_stopped(server, port))


async def _serve_until_stopped(server: ProviderServer, port: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await server.start(port)
    say(f"listening on {server.base_url}")
    await stopped.wait()
    await server.close()
