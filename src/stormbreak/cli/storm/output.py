"""Output of `stormbreak storm`: a sentence and a table, a document for programs, an exit code."""

import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from textwrap import fill
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import Progress, ProgressColumn
from rich.table import Table

from stormbreak.cli.output import warn
from stormbreak.escape import ending, plain
from stormbreak.provider.scenario import Scenario
from stormbreak.storm.assertions import Assertion, values
from stormbreak.storm.measures import FORMATS, Measures, mean_text, spread, value_text
from stormbreak.storm.measures import plain as plain_spread
from stormbreak.storm.result import Result
from stormbreak.storm.verdict import verdict, weakest

_MAX_SENTENCE = 2000  # characters of a sentence
_MAX_HEAD = 32  # characters of a name above a column
_BOUNDLESS = 10_000
_WORST_SHOWN = frozenset({"goodput", "trigger_goodput", "recovery", "p99"})


def sentence(scenario: Scenario, results: Sequence[Result]) -> str:
    """Write the verdict on one policy or program; on a terminal, wrap it between words."""
    text = plain(verdict(scenario, results), _MAX_SENTENCE)
    return fill(text, Console().width) if sys.stdout.isatty() else text


def tables(
    policies: Mapping[str, Sequence[Measures]], *, without: Container[str] = ()
) -> list[Table]:
    """Put policies side by side as long as no figure is cut; put the others below."""
    console = Console()
    boundless = console.options.update(max_width=_BOUNDLESS)
    parts: list[dict[str, Sequence[Measures]]] = [{}]
    for name, runs in policies.items():
        wider = table({**parts[-1], name: runs}, without=without)
        if parts[-1] and Measurement.get(console, boundless, wider).maximum > console.width:
            parts.append({})
        parts[-1][name] = runs
    return [table(part, without=without) for part in parts]


def table(policies: Mapping[str, Sequence[Measures]], *, without: Container[str] = ()) -> Table:
    """Draw measures as rows and policies as columns, without the unknown measures `without`.

    Several runs are shown as mean, standard deviation and, for some measures, the worst.
    """
    names = [escape(ending(name, _MAX_HEAD)) for name in policies]
    shown = Table("", *names, box=SIMPLE, pad_edge=False)
    for column in shown.columns[1:]:
        column.justify = "right"
    spreads = [spread(runs) for runs in policies.values()]
    several = any(len(runs) > 1 for runs in policies.values())
    for name in FORMATS:
        if name in without:
            continue
        shown.add_row(name, *(mean_text(name, each[name]) for each in spreads))
        if several and name in _WORST_SHOWN:
            shown.add_row("  the worst", *(value_text(name, each[name].worst) for each in spreads))
    return shown


def summary_of(storm: Scenario, results: Sequence[Result]) -> dict[str, Any]:
    """Return the verdict on one policy, its weakest moment, and the spread of its measures."""
    moment = weakest(results, storm.load)
    return {
        "verdict": verdict(storm, results),
        "weakest": None if moment is None else moment._asdict(),
        "measures": plain_spread(spread(measures_of(results))),
    }


def measures_of(results: Sequence[Result]) -> list[Measures]:
    return [one.measures for one in results]


def judge(claim: Assertion, text: str, measures: object) -> int:
    """Return 0 if the claim holds; else warn, with the values, and return 1."""
    if claim.holds(measures):
        return 0
    warn(f"--assert does not hold: {text}; {values(claim, measures)}")
    return 1


@contextmanager
def progress_bar(*columns: ProgressColumn) -> Iterator[Progress]:
    """Show a bar on standard error, if that is a terminal."""
    shown = sys.stderr.isatty()
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown)
    with bar if shown else nullcontext():  # before version 14, rich ends a hidden bar with a line
        yield bar
