"""`stormbreak demo`: one storm, played twice."""

from pathlib import Path

import click
from rich.console import Console

from stormbreak.cli.command import option, options, subcommand
from stormbreak.cli.options import DIR, FILE, seed
from stormbreak.cli.output import save_picture
from stormbreak.demo import ROWS, Screen, article, prepare, provider, stormbreak
from stormbreak.provider.scenario_file import load

SCENARIO = "incident"
PICTURE_WIDTH = 82


@subcommand("stormbreak demo", "stormbreak demo --report demo.svg")
@options(
    "Options",
    option("-o --output", DIR, "Folder for the prompts and answers.", default=Path("demo-results")),
    option("--report", FILE, "Also save the screen as FILE.svg."),
    seed(11),
)
def command(output: Path, seed: int, report: Path | None) -> int:
    """Send 500 prompts through an outage: first with the code of the article, then with stormbreak."""
    scenario = load(SCENARIO)
    assert scenario.background_traffic is not None
    spike = (scenario.background_traffic.steps[0].at, scenario.background_traffic.steps[-1].at)
    documents, answers = prepare(output)
    console = Console()
    if report is not None:
        console = Console(record=True, width=PICTURE_WIDTH, color_system="truecolor")
    screen = Screen(console)
    screen.open(spike=spike, speed=scenario.speed)
    with provider(SCENARIO, seed=seed) as stage:
        screen.act(1, "The article's batch code: one attempt a row, no retry")
        screen.sleeps()
        before = article(documents, stage.base_url, scenario.speed, lost=screen.lost)
        screen.many_lost()
        stage.reset()
        screen.act(2, "stormbreak: the same storm, the same ten at a time")
        with screen.bar() as move:
            after = stormbreak(documents, answers, stage.base_url, scenario.speed, move)
    if after.interrupted:
        raise click.Abort
    screen.compare(before, after, spike=spike)
    screen.close(after, where=str(answers))
    if report is not None:
        save_picture(console, report, title="stormbreak demo")
    return 0 if after.answered == ROWS else 1
