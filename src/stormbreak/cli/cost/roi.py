"""`stormbreak cost roi`: the savings of a migration from one offer to another, and the cost of a storm."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from stormbreak.cli.command import option, options, subcommand
from stormbreak.cli.cost.options import (
    MONEY,
    Amount,
    Volume,
    cost_options,
    mix_of,
    reject_unused_options,
    traffic_options,
)
from stormbreak.cli.cost.output import Output, assumed, notes_of, source_note
from stormbreak.cli.options import FILE
from stormbreak.cost.compare import Demand, at_list
from stormbreak.cost.downtime import Downtime, Loss, Storm, losses, read_storm_result
from stormbreak.cost.money import KEPT, Currency, near, rounded
from stormbreak.cost.price_lookup import Offer, PriceLookup, load_lookup
from stormbreak.cost.roi import Case, Migration, outcome, reasons, sensitivity
from stormbreak.cost.sheet import Cell, Column, Kind, Sheet, percent, volume
from stormbreak.cost.token_prices import Prices
from stormbreak.errors import ConfigurationError
from stormbreak.provider.scenario_file import load
from stormbreak.report.cost_facts import Cost, CostFacts, Costs


@dataclass(slots=True, kw_only=True)
class Result:
    """The output (`head` as JSON, `notes` as text, `sheets` as both), and the start of a report."""

    currency: Currency
    head: dict[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sheets: dict[str, Sheet] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    about: list[tuple[str, str]] = field(default_factory=list)
    bars: list[Costs] = field(default_factory=list)
    move: Migration | None = None

    def write(self, output: Output) -> None:
        facts = CostFacts(
            kind="result of a move" if self.move else "cost of an outage",
            title="; ".join(self.titles),
            verdict=self.verdicts[0],
            facts=self.about,
            bars=self.bars,
            move=None if self.move is None else self.move.case,
            listed=None if self.move is None else self.move.listed,
            currency=self.currency,
        )
        head = {"currency": self.currency.code, **self.head}
        output.write(head, self.notes, facts=facts, **self.sheets)


# ---------------------------------------------------------------- migration

_Named = tuple[str, Case]
_COLUMNS: Sequence[Column[_Named]] = (
    Column("case", "case", of=lambda it: it[0]),
    Column("current", "{} a month now", Kind.MONEY, of=lambda it: it[1].current),
    Column("candidate", "then", Kind.MONEY, of=lambda it: it[1].candidate),
    Column("saved_a_month", "saved a month", Kind.MONEY, of=lambda it: it[1].saving),
    Column("saved_a_year", "a year", Kind.MONEY, of=lambda it: it[1].saving_a_year),
    Column("savings_share", "savings", Kind.SHARE, of=lambda it: it[1].share),
    Column("payback_months", "payback, months", Kind.NUMBER, "never", of=lambda it: it[1].payback),
    Column("return_12_months", "return, 12 months", Kind.SHARE, of=lambda it: it[1].returned),
    Column("break_even_tokens", "", Kind.VOLUME, of=lambda it: it[1].break_even),
)


def move_of(
    now: Prices, then: Prices, demand: Demand, migration: Decimal, lookup: PriceLookup
) -> Migration:
    """Calculate a move. Raises UnknownPriceError."""
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
        on=lookup.market.on,
    )


def migration_cost(result: Result, move: Migration) -> None:
    case, currency = move.case, result.currency
    against = list(reasons(move, currency))
    result.sheets["cases"] = Sheet.of(_COLUMNS, _cases(move), currency)
    result.head.update(
        current=_head(move.current),
        candidate=_head(move.candidate),
        tokens=case.tokens,
        migration=currency.of(case.migration),
        price_headroom=None if case.headroom is None else rounded(case.headroom, KEPT),
        when_not_to_switch=[{"holds": it.holds, "said": it.text} for it in against],
    )
    result.notes.append(
        f"The migration costs {currency.with_code(case.migration)}, once. Savings are a share of the current cost;"
        " the return is the savings of twelve months less the cost of the migration, divided by that cost."
    )
    result.notes.extend(
        map(source_note, dict.fromkeys((move.current.source, move.candidate.source)))
    )
    result.notes.extend(notes_of((move.current, move.candidate)))
    result.notes.extend(["", "When not to switch:"])
    result.notes.extend(f"- {'now: ' if it.holds else ''}{it.text}" for it in against)

    result.move = move
    result.titles.append(f"{move.current.place} to {move.candidate.place}")
    result.verdicts.append(_verdict(move, currency))
    result.about.extend(
        [
            ("current", _priced(move.current)),
            ("candidate", _priced(move.candidate)),
            ("tokens a month", volume(Decimal(case.tokens))),
        ]
    )


def _priced(prices: Prices) -> str:
    claim = ", a claim" if prices.source.claim else ""
    return f"{prices.place}, by {prices.source.name}{claim}"


def _verdict(move: Migration, currency: Currency) -> str:
    """Write the result as a sentence; if today's price is a claim, add the result at the list price."""
    case, listed = move.case, move.listed_current
    text = f"The move {outcome(case.saving, currency.with_code)}"
    if case.saving > 0:
        share = "" if case.share is None else f", {percent(case.share)} of the current cost"
        assert case.payback is not None, "what saves is paid back"
        text += f"{share}, and is paid back after {near(case.payback, 1)} months"
    if listed is None:
        return f"{text}."
    then = outcome(listed - case.candidate, currency.with_code)
    return f"{text}, by a claim. Against today's list price of {move.current.maker} it {then}."


def _parse(option: str, text: str) -> Offer:
    try:
        return Offer.parse(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{option} {error}") from None


def _head(prices: Prices) -> dict[str, str]:
    source = prices.source.name
    return {"provider": prices.provider, "model": prices.model, "source": source}


def _cases(move: Migration) -> Iterator[_Named]:
    yield "as given", move.case
    if move.listed is not None:
        yield "current at its list price", move.listed
    yield from sensitivity(move.case)


# ---------------------------------------------------------------- storm: cost under each policy

_STORM_COLUMNS: Sequence[Column[Any]] = (
    Column("policy", "policy"),
    Column("lost_share", "answers lost", Kind.SHARE),
    Column("downtime_minutes", "as minutes down", Kind.NUMBER),
    Column("cost", "{} lost", Kind.MONEY),
    Column("saved", "less than the worst", Kind.MONEY),
)


def storm_cost(result: Result, path: Path, scenario: str | None, downtime: Downtime) -> None:
    storm, currency = read_storm_result(path), result.currency
    seconds = _watched(storm, path, scenario)
    found = losses(storm, seconds, downtime)
    worst = max(loss.cost for loss in found)
    rows: list[list[Cell]] = [
        [it.policy, it.share, it.minutes, it.cost, worst - it.cost] for it in found
    ]
    notes = _outage_notes(storm, found, downtime, currency)
    result.sheets["storm"] = Sheet(columns=_STORM_COLUMNS, rows=rows, currency=currency)
    result.notes.extend(["", "The outage:", *notes] if result.notes else notes)
    result.titles.append(storm.scenario)
    result.verdicts.extend(notes[1:2])
    result.bars.append(
        Costs(
            title=f"{currency.code} lost in {storm.scenario}",
            costs=[Cost(name=it.policy, usd=it.cost) for it in found],
        )
    )


def _watched(storm: Storm, path: Path, scenario: str | None) -> Decimal:
    """Seconds after the start of the trigger over which goodput was measured."""
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


def _outage_notes(
    storm: Storm, found: list[Loss], downtime: Downtime, currency: Currency
) -> list[str]:
    whose = "the article's estimate, scaled" if downtime == Downtime() else "your figures"
    cost, each = currency.with_code(downtime.cost), currency.with_code(downtime.per_minute)
    notes = [f"{downtime.minutes:f} minutes of downtime cost {cost} ({whose}): {each} a minute."]
    first, *others = found
    for other in others:
        less = other.cost - first.cost
        which = "less" if less >= 0 else "more"
        notes.append(
            f"{storm.scenario} under {first.policy} costs {currency.with_code(abs(less))} {which} than under {other.policy}."
        )
    if not others:
        notes.append(
            f"{storm.scenario} under {first.policy} loses {percent(first.share)} of the possible answers;"
            " storm run --compare adds other policies."
        )
    return notes


_HOURS = Amount(
    "a number of hours between 0.01 and 1,000,000, or 0", 1_000_000, low="0.01", name="HOURS"
)
_MINUTES = Amount(
    "a number of minutes between 0.01 and 1,000,000",
    1_000_000,
    low="0.01",
    zero=False,
    name="MINUTES",
)
_MOVE_OPTIONS = (
    "hours", "hourly", "input_share", "cache_rate", "prompt_tokens", "service_tier", "prices",
)  # fmt: skip


@subcommand(
    "stormbreak cost roi --current openai/gpt-4.1 --candidate openai/gpt-4.1-mini --tokens 50M",
    "stormbreak cost roi --storm storm.json --downtime-minutes 30 --downtime-cost 50000",
)
@options(
    "Migration",
    option("--current", "PROVIDER/MODEL", "The model in use today."),
    option("--candidate", "PROVIDER/MODEL", "The model to migrate to."),
    option("--tokens volume", Volume(), "Tokens a month: 50M."),
    option("--migration-hours hours", _HOURS, "Work of the migration.", default="40"),
    option("--hourly-cost hourly", MONEY, "Cost of an hour of work.", default="50"),
)
@options(
    "Outage",
    option("--storm", FILE, "Output of `storm run --json`."),
    option("--scenario", "NAME|FILE", "Scenario of --storm, if the file lacks its duration."),
    option(
        "--downtime-minutes",
        _MINUTES,
        "Length of a past downtime with a known cost.",
        show_default="23",
    ),
    option(
        "--downtime-cost", MONEY, "Cost of that downtime.", show_default="180,000, the article's"
    ),
)
@traffic_options
@cost_options
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
    prices: tuple[str, ...],
    output: Output,
    **traffic: Any,
) -> None:
    """Calculate savings, payback and return of a migration, and when not to migrate.

    With --storm, also calculate the cost of an outage under each policy.
    """
    if scenario is not None:
        output.protect(scenario)
    result = Result(currency=output.currency)
    if current and candidate and volume:
        mix = mix_of(**traffic)
        offers = _parse("--current", current), _parse("--candidate", candidate)
        lookup = load_lookup(prices)
        now, then = map(lookup.find, offers)
        move = move_of(now, then, mix.demand(volume[0]), hours * hourly, lookup)
        if downtime := _known_downtime(downtime_minutes, downtime_cost):
            move = replace(move, per_minute=downtime.per_minute)
        result.notes.append(assumed(volume, mix))
        migration_cost(result, move)
    elif storm is None or current or candidate or volume:
        raise click.UsageError("give --current, --candidate and --tokens, or --storm alone")
    else:
        reject_unused_options(_MOVE_OPTIONS, "without --current, --candidate and --tokens")
    if storm is None:
        reject_unused_options(("scenario",), "without --storm")
    else:
        downtime = _known_downtime(downtime_minutes, downtime_cost) or Downtime()
        storm_cost(result, storm, scenario, downtime)
    result.write(output)


def _known_downtime(minutes: Decimal | None, cost: Decimal | None) -> Downtime | None:
    """Return the user's downtime, completed by the article's figures; None if nothing was given."""
    if minutes is None and cost is None:
        return None
    usual = Downtime()
    return Downtime(
        minutes=usual.minutes if minutes is None else minutes,
        cost=usual.cost if cost is None else cost,
    )
