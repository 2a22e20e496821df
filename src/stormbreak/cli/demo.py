"""`stormbreak demo`: one storm, played twice."""

from pathlib import Path

import click
from rich.console import Console

from stormbreak.cli.output import save_picture
from stormbreak.demo import acts
from stormbreak.demo.screen import Screen
from stormbreak.demo.stage import ROWS, prepare, provider
from stormbreak.provider.scenario_file import load

SCENARIO = "incident"
PICTURE_WIDTH = 82


@click.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-results"),
    show_default=True,
    help="Where prompts and answers are left.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=11,
    show_default=True,
    help="The same seed, the same storm.",
)
@click.option(
    "--svg",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also save what is shown as a picture.",
)
def command(directory: Path, seed: int, svg: Path | None) -> int:
    """Watch 500 prompts go through a provider storm: once with the article's code, once with stormbreak."""
    scenario = load(SCENARIO)
    assert scenario.background_traffic is not None
    spike = (scenario.background_traffic.steps[0].at, scenario.background_traffic.steps[-1].at)
    documents, output = prepare(directory)
    console = Console()
    if svg is not None:
        console = Console(record=True, width=PICTURE_WIDTH, color_system="truecolor")
    screen = Screen(console)
    screen.open(spike=spike, speed=scenario.speed)
    with provider(SCENARIO, seed=seed) as stage:
        screen.act(1, "The article's batch code: one attempt a row, no retry")
        screen.sleeps()
        before = acts.article(documents, stage.base_url, scenario.speed, lost=screen.lost)
        screen.many_lost()
        stage.reset()
        screen.act(2, "stormbreak: the same storm, the same ten at a time")
        with screen.bar() as bar:
            after = acts.stormbreak(documents, output, stage.base_url, scenario.speed, bar.tick)
    if after.interrupted:
        raise click.Abort
    screen.compare(before, after, spike=spike)
    screen.close(after, where=str(output))
    if svg is not None:
        save_picture(console, svg, title="stormbreak demo")
    return 0 if after.answered == ROWS else 1
