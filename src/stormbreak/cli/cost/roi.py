"""`stormbreak cost roi`: what a migration from one offer to another saves, and what a storm costs."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple, Self

import click

from stormbreak.cli.cost.options import (
    MONEY,
    Amount,
    Volume,
    currency_of,
    reject_unused_options,
    shared,
    traffic,
)
from stormbreak.cli.cost.output import Output, assumed, notes_of, whence
from stormbreak.cost.compare import Demand, Mix, at_list
from stormbreak.cost.downtime import Downtime, Loss, Storm, losses, read_storm_result
from stormbreak.cost.money import KEPT, Currency, near, rounded
from stormbreak.cost.price_lookup import Offer, PriceLookup, load_lookup
from stormbreak.cost.prices import Prices, Service
from stormbreak.cost.roi import Case, Migration, outcome, reasons, sensitivity
from stormbreak.cost.sheet import Cell, Column, Kind, Sheet, percent, volume
from stormbreak.errors import ConfigurationError
from stormbreak.provider.scenario_file import load
from stormbreak.report.cost_facts import Cost, CostFacts, Costs

# ---------------------------------------------------------------- collected output


@dataclass(slots=True, kw_only=True)
class Told:
    """For programs, for people, the sheets for both, and what a report has above them."""

    currency: Currency
    head: dict[str, object] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    sheets: dict[str, Sheet] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    about: list[tuple[str, str]] = field(default_factory=list)
    bars: list[Costs] = field(default_factory=list)
    move: Case | None = None

    def __post_init__(self) -> None:
        self.head["currency"] = self.currency.code

    def facts(self) -> CostFacts:
        """What a report says before its tables."""
        return CostFacts(
            kind="what a move brings" if self.move else "what an outage costs",
            title="; ".join(self.titles),
            verdict=self.verdicts[0],
            facts=self.about,
            bars=self.bars,
            move=self.move,
            currency=self.currency,
        )


# ---------------------------------------------------------------- migration

_COLUMNS = (
    Column("case", "case"),
    Column("current", "{} a month now", Kind.MONEY),
    Column("candidate", "then", Kind.MONEY),
    Column("saved_a_month", "saved a month", Kind.MONEY),
    Column("saved_a_year", "a year", Kind.MONEY),
    Column("savings_share", "savings", Kind.SHARE),
    Column("payback_months", "payback, months", Kind.NUMBER, "never"),
    Column("return_12_months", "return, 12 months", Kind.SHARE),
    Column("break_even_tokens", "", Kind.VOLUME),
)


class Offers(NamedTuple):
    """What is used today, and what would be."""

    current: Offer
    candidate: Offer

    @classmethod
    def parse(cls, current: str, candidate: str) -> Self:
        """Read what `--current` and `--candidate` say."""
        return cls(_parse("--current", current), _parse("--candidate", candidate))

    def move(
        self, demand: Demand, migration: Decimal, lookup: PriceLookup, downtime: Downtime | None
    ) -> Migration:
        """Look the prices up. Raises UnknownPriceError."""
        now, then = (lookup.find(offer) for offer in self)
        case = Case(
            tokens=demand.tokens.total,
            current=demand.cost(now),
            candidate=demand.cost(then),
            migration=migration,
        )
        return Migration(
            case=case,
            current=now,
            candidate=then,
            listed_current=at_list(now, demand, lookup) if now.source.claim else None,
            listed_candidate=at_list(then, demand, lookup),
            per_minute=downtime.per_minute if downtime else None,
            on=lookup.market.on,
        )


def migration_cost(told: Told, move: Migration) -> None:
    """Add a move to what will be printed."""
    case, currency = move.case, told.currency
    against = list(reasons(move, currency))
    told.sheets["cases"] = Sheet(columns=_COLUMNS, rows=list(_rows(move)), currency=currency)
    told.head.update(
        current=_head(move.current),
        candidate=_head(move.candidate),
        tokens=case.tokens,
        migration=currency.of(case.migration),
        price_headroom=None if case.headroom is None else rounded(case.headroom, KEPT),
        when_not_to_switch=[{"holds": it.holds, "said": it.text} for it in against],
    )
    told.said.append(
        f"The migration costs {currency.with_code(case.migration)}, once. Savings are a share of what is paid"
        " now; the return is what twelve months leave after the migration is paid, against what it costs."
    )
    told.said.extend(map(whence, dict.fromkeys((move.current.source, move.candidate.source))))
    told.said.extend(notes_of((move.current, move.candidate)))
    told.said.extend(["", "When not to switch:"])
    told.said.extend(f"- {'now: ' if it.holds else ''}{it.text}" for it in against)

    told.move = case
    told.titles.append(f"{_name(move.current)} to {_name(move.candidate)}")
    told.verdicts.append(_verdict(move, currency))
    told.about.extend(
        [
            ("current", _priced(move.current)),
            ("candidate", _priced(move.candidate)),
            ("tokens a month", volume(Decimal(case.tokens))),
        ]
    )


def _name(prices: Prices) -> str:
    return f"{prices.provider}/{prices.model}"


def _priced(prices: Prices) -> str:
    claim = ", a claim" if prices.source.claim else ""
    return f"{_name(prices)}, by {prices.source.name}{claim}"


def _verdict(move: Migration, currency: Currency) -> str:
    """Tell what comes of it in one sentence; where what is paid now is a claim, what the list says in a second one."""
    case, listed = move.case, move.listed_current
    said = f"The move {outcome(case.saving, currency.with_code)}"
    if case.saving > 0:
        share = "" if case.share is None else f", {percent(case.share)} of what is paid now"
        assert case.payback is not None, "what saves is paid back"
        said += f"{share}, and is paid back after {near(case.payback, 1)} months"
    if listed is None:
        return f"{said}."
    then = outcome(listed - case.candidate, currency.with_code)
    return f"{said}, by a claim. Against today's list price of {move.current.maker} it {then}."


def _parse(option: str, text: str) -> Offer:
    try:
        return Offer.parse(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{option} {error}") from None


def _head(prices: Prices) -> dict[str, str]:
    source = prices.source.name
    return {"provider": prices.provider, "model": prices.model, "source": source}


def _rows(move: Migration) -> Iterator[list[Cell]]:
    yield _cells("as given", move.case)
    if move.listed_current is not None:
        yield _cells("current at its list price", replace(move.case, current=move.listed_current))
    for name, case in sensitivity(move.case):
        yield _cells(name, case)


def _cells(name: str, case: Case) -> list[Cell]:
    return [
        name,
        case.current,
        case.candidate,
        case.saving,
        case.saving_a_year,
        case.share,
        case.payback,
        case.returned,
        case.break_even,
    ]


# ---------------------------------------------------------------- storm: cost under each policy

_STORM_COLUMNS = (
    Column("policy", "policy"),
    Column("lost_share", "answers lost", Kind.SHARE),
    Column("downtime_minutes", "as minutes down", Kind.NUMBER),
    Column("cost", "{} lost", Kind.MONEY),
    Column("saved", "less than the worst", Kind.MONEY),
)


def storm_cost(told: Told, path: Path, scenario: str | None, downtime: Downtime) -> None:
    """Add the losses of each policy to what will be printed."""
    storm, currency = read_storm_result(path), told.currency
    seconds = _watched(storm, path, scenario)
    found = losses(storm, seconds, downtime)
    worst = max(loss.cost for loss in found)
    rows: list[list[Cell]] = [
        [it.policy, it.share, it.minutes, it.cost, worst - it.cost] for it in found
    ]
    said = _words(storm, found, downtime, currency)
    told.sheets["storm"] = Sheet(columns=_STORM_COLUMNS, rows=rows, currency=currency)
    told.said.extend(["", "The outage:", *said] if told.said else said)
    told.titles.append(storm.scenario)
    told.verdicts.extend(said[1:2])
    told.bars.append(
        Costs(
            title=f"{currency.code} lost in {storm.scenario}",
            costs=[Cost(name=it.policy, usd=it.cost) for it in found],
        )
    )


def _watched(storm: Storm, path: Path, scenario: str | None) -> Decimal:
    """Seconds from the trigger on, over which goodput was measured."""
    duration, begun, ended = storm.duration, storm.trigger_at, storm.trigger_until
    if duration is None or scenario is not None:
        try:
            known = load(scenario or storm.scenario)
        except ConfigurationError as error:
            hint = "" if scenario else f"{path}: --scenario is needed: "
            raise ConfigurationError(f"{hint}{error}") from None
        duration = Decimal(str(known.duration))
        times = (known.load.trigger_at, known.load.trigger_until) if known.load else (None, None)
        begun, ended = (None if time is None else Decimal(str(time)) for time in times)
    if ended is None:
        raise ConfigurationError(
            f"{path}: {storm.scenario} has no trigger, so no downtime to price"
        )
    begun = begun or Decimal(0)
    if begun >= duration:
        raise ConfigurationError(
            f"{path}: trigger_at must be before the end, {duration:f}, got {begun:f}"
        )
    return duration - begun


def _words(storm: Storm, found: list[Loss], downtime: Downtime, currency: Currency) -> list[str]:
    whose = "the article's estimate, scaled" if downtime == Downtime() else "as you say"
    cost, each = currency.with_code(downtime.cost), currency.with_code(downtime.per_minute)
    said = [f"{downtime.minutes:f} minutes of downtime cost {cost} ({whose}): {each} a minute."]
    first, *others = found
    for other in others:
        less = other.cost - first.cost
        which = "less" if less >= 0 else "more"
        said.append(
            f"{storm.scenario} under {first.policy} costs {currency.with_code(abs(less))} {which} than under {other.policy}."
        )
    if not others:
        said.append(
            f"{storm.scenario} under {first.policy} loses {percent(first.share)} of the possible answers;"
            " storm run --compare puts other policies beside it."
        )
    return said


# ---------------------------------------------------------------- command

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
