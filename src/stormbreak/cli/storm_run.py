"""`stormbreak storm run`: one scenario against one policy, and others beside it."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as Bar
from rich.progress import TaskID

from stormbreak.cli.say import draw, say
from stormbreak.cli.storm_screen import sentence, table
from stormbreak.errors import ConfigurationError
from stormbreak.provider.loader import load
from stormbreak.provider.scenario import Scenario
from stormbreak.storm import contenders
from stormbreak.storm.baselines import Contender
from stormbreak.storm.claims import NEVER, Claim, parse_claim
from stormbreak.storm.measures import Measures, average
from stormbreak.storm.simulation import Result, simulate


@click.command("run")
@click.argument("scenario", metavar="NAME|FILE")
@click.option(
    "--policy",
    metavar="FILE|PRESET|BASELINE",
    help="How calls are treated; each scenario names a preset of its own.",
)
@click.option("--compare", metavar="A,B,...", default="", help="Other policies on the same calls.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="So many runs, from --seed on; what is shown is their mean.",
)
@click.option("--shared", is_flag=True, help="All processes share one engine.")
@click.option(
    "--first-output",
    is_flag=True,
    help="Answers are streamed on the wire: clients see when each begins.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the measures as JSON.")
@click.option(
    "--assert", "claim", metavar="EXPR", help="Exit 1 unless it holds: 'goodput >= 0.97'."
)
@click.option("--report", metavar="FILE", help="Not built yet.")
def command(  # noqa: PLR0913 - one parameter for each option
    *,
    scenario: str,
    policy: str | None,
    compare: str,
    seed: int,
    seeds: int,
    shared: bool,
    first_output: bool,
    as_json: bool,
    claim: str | None,
    report: str | None,
) -> int:
    """Say what a storm does to a policy."""
    if report is not None:
        raise click.UsageError("--report is not built yet")
    claimed = None if claim is None else parse_claim(claim)
    storm = load(scenario)
    first = contenders.find(policy) if policy else _own(storm, scenario)
    others = [contenders.find(name) for name in dict.fromkeys(_names(compare))]
    found = [first, *(other for other in others if other.name != first.name)]
    results = _simulate(storm, found, range(seed, seed + seeds), shared, first_output)
    means = {contender.name: average(_of(contender, results)) for contender in found}
    if as_json:
        head = {"scenario": storm.name, "policy": found[0].name, "seed": seed, "seeds": seeds}
        modes = {"shared": shared, "first_output": first_output}
        say(json.dumps(_document({**head, **modes}, means, results)))
    else:
        say(sentence(storm, found[0].name, means[found[0].name]))
        draw(table(means))
    return 0 if claimed is None else judge(claimed, str(claim), means[found[0].name])


def _own(storm: Scenario, scenario: str) -> Contender:
    """The policy that the scenario itself names."""
    try:
        return contenders.find(storm.load.preset if storm.load else "interactive")
    except ConfigurationError as error:
        raise ConfigurationError(f"{scenario}: load.preset: {error}") from None


def _names(compare: str) -> list[str]:
    names = [name.strip() for name in compare.split(",") if name.strip()]
    if compare and not names:
        raise click.UsageError(f"--compare names no policy, got {compare!r}")
    return names


def _simulate(
    storm: Scenario,
    found: Sequence[Contender],
    seeds: range,
    shared: bool,  # noqa: FBT001
    first_output: bool,  # noqa: FBT001
) -> list[Result]:
    results = []
    with _bar() as bar:
        for contender in found:
            for seed in seeds:
                task = bar.add_task(
                    escape(f"{storm.name}, {contender.name}, seed {seed}"), total=1.0
                )
                result = simulate(
                    storm,
                    contender,
                    seed=seed,
                    shared=shared,
                    first_output=first_output,
                    progress=partial(_show, bar, task),
                )
                results.append(result)
                bar.remove_task(task)
    return results


def _show(bar: Bar, task: TaskID, share: float) -> None:
    bar.update(task, completed=share)


@contextmanager
def _bar() -> Iterator[Bar]:
    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        yield bar


def _of(contender: Contender, results: Sequence[Result]) -> list[Measures]:
    return [result.measures for result in results if result.policy == contender.name]


def _document(
    head: dict[str, Any], means: dict[str, Measures], results: Sequence[Result]
) -> dict[str, Any]:
    """The measures of the policy asked for, and below them each run of each policy."""
    runs = [
        {"policy": result.policy, "seed": result.seed, **result.measures.plain()}
        for result in results
    ]
    return {**head, **means[head["policy"]].plain(), "runs": runs}


def judge(claim: Claim, text: str, measures: Measures) -> int:
    """Exit code 1, and why, unless the claim holds."""
    if claim.holds(measures):
        return 0
    plain = measures.plain()
    said = ((name, plain[name]) for name in claim.names())
    values = ", ".join(f"{name} is {NEVER if value is None else value}" for name, value in said)
    click.echo(f"stormbreak: --assert does not hold: {text}; {values}", err=True)
    return 1
