"""`stormbreak cost report LEDGER...`: the usage and cost of gateways' attempts, by key, model, label, day, ..."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from math import inf
from pathlib import Path
from typing import TypeVar

from stormbreak.cli.command import Value
from stormbreak.cli.cost.output import Output, costs_of
from stormbreak.cli.options import Names
from stormbreak.cost.accounts import Bill, PricedSum
from stormbreak.cost.money import Currency
from stormbreak.cost.price_lookup import PriceLookup, price_of
from stormbreak.cost.sheet import Column, Kind, Sheet
from stormbreak.cost.token_prices import Tokens
from stormbreak.cost.usage_records import Counted, Traffic, sum_usage
from stormbreak.cost.usage_records import Kind as UsedKind
from stormbreak.errors import ConfigurationError
from stormbreak.gateway.usage_ledger import read_usage
from stormbreak.gateway.usage_rows import FREE, HOUR, KNOWN, Sums, UsageRow, UsageSum
from stormbreak.hidden_keys import quoted
from stormbreak.report.cost_facts import CostFacts

_MAGIC = b"SQLite format 3\0"
_LABEL = "label."
T = TypeVar("T")

DEFAULT_BY = ("key", "model")
_FIELDS: Mapping[str, Callable[[UsageRow], str]] = {
    "tenant": lambda row: row.tenant,
    "label": lambda row: " ".join(f"{name}={value}" for name, value in row.labels),
    "model": lambda row: row.model,
    "key": lambda row: row.key,
    "target": lambda row: row.target or f"{row.provider}/{row.model}",
    "provider": lambda row: row.provider,
    "day": lambda row: f"{_time(row.hour):%Y-%m-%d}",
    "month": lambda row: f"{_time(row.hour):%Y-%m}",
}


def token_columns(of: Callable[[T], Tokens]) -> Sequence[Column[T]]:
    return (
        Column("input_tokens", "in", Kind.COUNT, of=lambda it: int(of(it).input)),
        Column("cached_input_tokens", "cached", Kind.COUNT, of=lambda it: int(of(it).cached_input)),
        Column("cache_write_tokens", "written", Kind.COUNT, of=lambda it: int(of(it).cache_write)),
        Column("cache_write_1h_tokens", "", Kind.COUNT, of=lambda it: int(of(it).cache_write_1h)),
        Column("output_tokens", "out", Kind.COUNT, of=lambda it: int(of(it).output)),
    )


FIELDS = Names(
    ", ".join((*_FIELDS, f"{_LABEL}NAME")),
    lambda name: name in _FIELDS or (name.startswith(_LABEL) and name != _LABEL),
)
"""The grouping of the report's rows."""


class Hour(Value[float]):
    """A day or an hour of UTC, as unix seconds."""

    name = "DAY"

    def parse(self, text: str) -> float:
        try:
            at = datetime.fromisoformat(text)
            seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        except ValueError:
            seconds = 1.0
        if seconds % HOUR:
            wanted = "a day or a full hour of UTC, such as 2026-11-01 or 2026-11-01T14:00"
            raise ValueError(f"must be {wanted}, got {quoted(text)}")
        return seconds


@dataclass(slots=True)
class _Group:
    """One row of the report; a bill holds its sums by kind."""

    names: tuple[str, ...]
    bill: Bill = field(default_factory=Bill)

    def add(self, kind: str, each: UsageSum) -> None:
        if kind == FREE:
            self.bill.free += each.attempts
            return
        total = getattr(self.bill, kind)
        total.add(each.usage, each.attempts)
        total.usd += each.usd
        self.bill.unpriced += each.unpriced
        self.bill.unbounded += each.unbounded

    @property
    def unknown(self) -> PricedSum:
        """Attempts without a usage; their dollars are bounds."""
        uncounted, wasted = self.bill.used_uncounted, self.bill.wasted_open
        return PricedSum(
            attempts=uncounted.attempts + wasted.attempts, usd=uncounted.usd + wasted.usd
        )

    def known(self, usd: Decimal) -> Decimal | None:
        """Return dollars of a usage; None if they are 0 because a price is unknown."""
        return usd if usd or not self.bill.unpriced else None

    def bounded(self, usd: Decimal) -> Decimal | None:
        """Return dollars of a bound; None if they are 0 because a price or a bound is unknown."""
        return None if self.bill.unbounded and not usd else self.known(usd)


_COLUMNS: Sequence[Column[_Group]] = (
    Column("answers", "answers", Kind.COUNT, of=lambda it: it.bill.useful.attempts + it.bill.used_uncounted.attempts),
    *token_columns(lambda it: Tokens.of((it.bill.useful + it.bill.wasted).usage)),
    Column("cost", "{}", Kind.MONEY, of=lambda it: it.known(it.bill.useful.usd + it.bill.wasted.usd)),
    Column("wasted", "wasted, at least", Kind.MONEY, of=lambda it: it.known(it.bill.wasted.usd)),
    Column("wasted_max", "at most", Kind.MONEY, of=lambda it: it.bounded(it.bill.for_nothing.max_usd)),
    Column("unknown_attempts", "attempts without usage", Kind.COUNT, of=lambda it: it.unknown.attempts),
    Column("unknown_max", "{} without usage, at most", Kind.MONEY, of=lambda it: it.bounded(it.unknown.usd)),
    Column("free_attempts", "free attempts", Kind.COUNT, of=lambda it: it.bill.free),
    Column("unpriced_attempts", "without a price", Kind.COUNT, of=lambda it: it.bill.unpriced),
    Column("unbounded_attempts", "without a bound", Kind.COUNT, of=lambda it: it.bill.unbounded),
)  # fmt: skip


def is_ledger(path: Path) -> bool:
    """Whether a file is a ledger; a missing file is not. Never opens a pipe, since it may have no writer."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def read_traffic(path: Path, since: float | None, until: float | None) -> Traffic:
    """Read the tokens of each model from a ledger.

    Raises ConfigurationError if the file cannot be read, or no usage is recorded for that time.
    """
    found = read_usage(path, price_of, since or 0, inf if until is None else until)
    known = [(row, each) for row, each in found.items() if row.kind in KNOWN]
    if not known:
        raise ConfigurationError(f"{path}: no usage is recorded for that time")
    unknown = sum(each.attempts for row, each in found.items() if row.kind not in (*KNOWN, FREE))
    hours = [row.hour for row, _ in known]
    return Traffic(
        uses=sum_usage(
            Counted(UsedKind(row.model), Tokens.of(each.usage), each.attempts)
            for row, each in sorted(known)
        ),
        since=_time(min(hours)).date(),
        until=_time(max(hours)).date(),
        notes=(f"Attempts without usage are not included: {unknown:,}.",) if unknown else (),
    )


def report(
    paths: Sequence[Path],
    *,
    by: tuple[str, ...],
    since: float | None,
    until: float | None,
    lookup: PriceLookup,
    output: Output,
) -> None:
    """Print the contents of these ledgers together. Raises ConfigurationError if one is repeated or unreadable."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigurationError("a ledger is given twice, and would be counted twice")
    total, groups = _Group(("all", *[""] * (len(by) - 1))), dict[tuple[str, ...], _Group]()
    hours = set[int]()
    for path in paths:
        found = read_usage(path, lookup.price_of, since or 0, inf if until is None else until)
        for row, each in (_priced(found, lookup) if lookup.files else found).items():
            names = tuple(_name(row, field) for field in by)
            groups.setdefault(names, _Group(names)).add(row.kind, each)
            total.add(row.kind, each)
            hours.add(row.hour)
    currency = output.currency
    rows = [groups[names] for names in sorted(groups)]
    if len(rows) > 1:
        rows.append(total)
    columns = [_name_column(field, place) for place, field in enumerate(by)]
    period = _period(since, until, hours)
    notes = list(_notes(total.bill, period, lookup, currency))
    head = {
        "ledgers": [str(path) for path in paths],
        "since": _shown(since),
        "until": _shown(until),
        "currency": currency.code,
        "notes": notes,
    }
    sheet = Sheet.of((*columns, *_COLUMNS), rows, currency).with_currency()
    output.write(head, notes, facts=_facts(total, groups, period, output), usage=sheet)


def _priced(found: Sums, lookup: PriceLookup) -> Sums:
    """Return the same rows with the prices of the files."""
    for row, each in found.items():
        prices = lookup.price_of(row.provider, row.model)
        if prices is None or row.kind == FREE:
            continue
        each.usd = each.cost(prices) if row.kind in KNOWN else each.max_cost(prices)
        each.unpriced = 0
    return found


def _name_column(field: str, place: int) -> Column[_Group]:
    return Column(field, field, of=lambda it: it.names[place])


def _name(row: UsageRow, field: str) -> str:
    if field.startswith(_LABEL):
        return dict(row.labels).get(field.removeprefix(_LABEL), "")
    return _FIELDS[field](row)


def _notes(bill: Bill, period: str, lookup: PriceLookup, currency: Currency) -> Iterator[str]:
    if not bill.attempts:
        yield "No attempts are recorded for that time."
        return
    yield f"Attempts {period}."
    if bill.for_nothing.max_usd:
        yield f"Wasted on attempts without an answer: {currency.spanned(*bill.for_nothing)}."
    unknown = bill.used_uncounted.attempts + bill.wasted_open.attempts
    if unknown:
        yield (
            f"Attempts without usage: {unknown:,}. They may be on the invoice; their maximum is shown separately."
        )
    if bill.unpriced:
        yield (
            f"Attempts without a known price: {bill.unpriced:,}. Give a price file with --prices; prices that only the"
            " gateway has count when an attempt has ended."
        )
    if bill.unbounded:
        yield f"Attempts without usage or bound: {bill.unbounded:,}. No amount includes them."
    if lookup.files:
        yield "Amounts use the given prices; prices that depend on the prompt's length use the mean prompt of an hour."
    else:
        yield "Amounts use the gateway's prices on the day of each attempt: its price files, then list prices."


def _facts(
    total: _Group, groups: Mapping[tuple[str, ...], _Group], period: str, output: Output
) -> CostFacts:
    currency, bill = output.currency, total.bill
    amounts = ((", ".join(each.names), each.bill.in_all.min_usd, None) for each in groups.values())
    without = "" if bill.is_whole else ", without attempts of unknown cost"
    return CostFacts(
        kind="what gateways spent",
        title="Cost of the gateway",
        verdict=(
            f"The gateway has spent {currency.spanned(*bill.in_all)} {period}{without}."
            f" {currency.spanned(*bill.for_nothing)} of it was wasted on attempts without an answer."
        )
        if bill.attempts
        else "No attempts are recorded for that time.",
        facts=[("attempts", f"{bill.attempts:,}")],
        bars=[costs_of(f"{currency.code} spent, at least", amounts)],
        currency=currency,
    )


def _period(since: float | None, until: float | None, hours: Collection[int]) -> str:
    """Describe the period of the report: as given, else from the first to the last hour with attempts."""
    first = min(hours, default=0) * HOUR if since is None else since
    end = (max(hours, default=0) + 1) * HOUR if until is None else until
    return f"from {_point(first)} until {_point(end)} UTC"


def _point(seconds: float) -> str:
    at = datetime.fromtimestamp(seconds, UTC)
    return f"{at:%Y-%m-%d %H:%M}" if at.hour else f"{at:%Y-%m-%d}"


def _time(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * HOUR, UTC)


def _shown(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
