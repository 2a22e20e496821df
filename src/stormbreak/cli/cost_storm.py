"""What a simulated storm costs under each policy, for `stormbreak cost roi --storm`."""

from decimal import Decimal
from pathlib import Path

from stormbreak.cli.cost_told import Told
from stormbreak.cost.money import Currency
from stormbreak.cost.outage import Downtime, Loss, Storm, losses, read_storm_result
from stormbreak.cost.sheet import Cell, Column, Kind, Sheet, percent
from stormbreak.errors import ConfigurationError
from stormbreak.provider.loader import load
from stormbreak.report.cost_facts import Cost, Costs

_COLUMNS = (
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
    told.sheets["storm"] = Sheet(columns=_COLUMNS, rows=rows, currency=currency)
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
    cost, each = currency.told(downtime.cost), currency.told(downtime.per_minute)
    said = [f"{downtime.minutes:f} minutes of downtime cost {cost} ({whose}): {each} a minute."]
    first, *others = found
    for other in others:
        less = other.cost - first.cost
        which = "less" if less >= 0 else "more"
        said.append(
            f"{storm.scenario} under {first.policy} costs {currency.told(abs(less))} {which} than under {other.policy}."
        )
    if not others:
        said.append(
            f"{storm.scenario} under {first.policy} loses {percent(first.share)} of the possible answers;"
            " storm run --compare puts other policies beside it."
        )
    return said
