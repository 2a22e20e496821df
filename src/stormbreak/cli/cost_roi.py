"""`stormbreak cost roi`: what a move from one offer to another brings, and what a storm costs."""

from decimal import Decimal
from pathlib import Path

import click

from stormbreak.cli.cost_move import Offers, migration_cost
from stormbreak.cli.cost_options import (
    MONEY,
    Amount,
    Volume,
    currency_of,
    reject_unused_options,
    shared,
    traffic,
)
from stormbreak.cli.cost_output import Output
from stormbreak.cli.cost_storm import storm_cost
from stormbreak.cli.cost_told import Told
from stormbreak.cli.cost_words import assumed
from stormbreak.cost.compare import Mix
from stormbreak.cost.lookup import load_lookup
from stormbreak.cost.outage import Downtime
from stormbreak.cost.prices import Service

_HOURS = Amount("a number of hours between 0.01 and 1,000,000, or 0", 1_000_000, least="0.01")
_MINUTES = Amount(
    "a number of minutes between 0.01 and 1,000,000", 1_000_000, least="0.01", zero=False
)
_OF_A_MOVE = ("hours", "hourly", "input_share", "cache_rate", "prompt", "service", "files")


@click.command("roi")
@click.option("--current", metavar="PROVIDER/MODEL", help="What is used today.")
@click.option("--candidate", metavar="PROVIDER/MODEL", help="What would be used instead.")
@click.option("--tokens", "volume", type=Volume(), help="Tokens a month: 50M.")
@click.option(
    "--hours",
    type=_HOURS,
    default="40",
    show_default=True,
    help="Hours of work that the move takes.",
)
@click.option(
    "--hourly",
    type=MONEY,
    default="50",
    show_default=True,
    help="Dollars that an hour of it costs.",
)
@click.option("--storm", type=click.Path(path_type=Path), help="What storm run --json printed.")
@click.option(
    "--scenario",
    metavar="NAME|FILE",
    help="The scenario of --storm, where that does not say how long it was.",
)
@click.option(
    "--downtime-minutes", type=_MINUTES, help="A downtime that you know the cost of.  [default: 23]"
)
@click.option(
    "--downtime-cost", type=MONEY, help="Dollars that it cost.  [default: 180,000, the article's]"
)
@traffic
@shared
def command(  # noqa: PLR0913 - one parameter for each option
    *,
    current: str | None,
    candidate: str | None,
    volume: tuple[int, ...] | None,
    hours: Decimal,
    hourly: Decimal,
    storm: Path | None,
    scenario: str | None,
    downtime_minutes: Decimal | None,
    downtime_cost: Decimal | None,
    input_share: Decimal,
    cache_rate: Decimal,
    prompt: tuple[int, ...],
    service: str | None,
    files: tuple[str, ...],
    currency: str,
    rate: str | None,
    as_json: bool,
    as_csv: bool,
    report: str | None,
) -> None:
    """Say what a move brings: savings, payback, return, and when not to. With --storm, what an outage costs."""
    output = Output.of(
        as_json=as_json, as_csv=as_csv, report=report, reads=(storm, scenario, *files)
    )
    shown_in = currency_of(currency, rate)
    told = Told(currency=shown_in)
    if current and candidate and volume:
        mix = Mix(input_share, cache_rate, prompt[0], Service(service or Service.STANDARD))
        lookup = load_lookup(files)
        offers = Offers.parse(current, candidate)
        known = _known(downtime_minutes, downtime_cost)
        move = offers.move(mix.demand(volume[0]), hours * hourly, lookup, known)
        told.said.append(assumed(volume, mix))
        migration_cost(told, move)
    elif storm is None or current or candidate or volume:
        raise click.UsageError("--current, --candidate and --tokens are needed, or --storm alone")
    else:
        reject_unused_options(_OF_A_MOVE, "without --current, --candidate and --tokens")
    if storm is None:
        reject_unused_options(("scenario",), "without --storm")
    else:
        downtime = _known(downtime_minutes, downtime_cost) or Downtime()
        storm_cost(told, storm, scenario, downtime)
    output.answer(told.head, told.said, facts=told.facts(), **told.sheets)


def _known(minutes: Decimal | None, cost: Decimal | None) -> Downtime | None:
    """The downtime that the user knows, with the article's figure for what is not said; None where nothing is."""
    if minutes is None and cost is None:
        return None
    usual = Downtime()
    return Downtime(
        minutes=usual.minutes if minutes is None else minutes,
        cost=usual.cost if cost is None else cost,
    )
