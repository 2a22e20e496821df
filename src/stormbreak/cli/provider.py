"""`stormbreak provider serve`: the local mock provider."""

import asyncio
import signal
from dataclasses import replace
from pathlib import Path

from stormbreak.cli.command import option, options, subcommand
from stormbreak.cli.options import FILE, PORT, seed, speed
from stormbreak.cli.output import say
from stormbreak.http.h1.server import new_loop
from stormbreak.provider.scenario_file import builtin_names, load, load_answers
from stormbreak.provider.server import ProviderServer


@subcommand(
    "stormbreak provider serve --scenario incident",
    "stormbreak provider serve --scenario mine.toml --port 0 --speed 10",
    epilog=f"Scenarios: {', '.join(builtin_names())}.",
)
@options(
    "Options",
    option("--port", PORT, "Port to listen on; 0 picks a free one.", default=8900),
    option("--scenario", "NAME|FILE", "A scenario below, or a TOML file.", default="calm"),
    option("--answers", FILE, "A TOML file of [[answers]]: the answers to matching requests."),
    speed(None, "each scenario has its own default"),
    seed(),
)
def command(port: int, scenario: str, answers: Path | None, speed: float | None, seed: int) -> None:
    """Serve a scenario on 127.0.0.1 until interrupted.

    Scenario time starts with the first request. POST /_provider/reset restarts it; GET /_provider/stats returns
    counters.
    """
    played = load(scenario)
    if answers is not None:
        played = replace(played, answers=(*load_answers(answers), *played.answers))
    server = ProviderServer(played, seed=seed, speed=speed)
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
