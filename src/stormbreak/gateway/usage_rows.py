"""The usage of a gateway's attempts, in its ledger file: a row for each hour, client key, target and kind.

A row adds up the attempts that were sent in one hour (UTC). The journals next to the file (`usage_journal`) hold
attempts that are not in it yet; the table `journals` names those that are.
"""

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import msgspec

from stormbreak.cost.accounts import PricedSum
from stormbreak.cost.price_source import EXACT, PriceOf, known_cost, known_max_cost, known_prices
from stormbreak.types import Labels, Outcome, Usage, Verdict

HOUR = 3600  # seconds
TIMEOUT = 5.0  # seconds to wait for another process that reads or writes the file

FREE = "free"
KNOWN = ("useful", "wasted")
"""The kinds of `cost.accounts.Bill` that have a usage; the others have bounds."""

_SUMS = (
    "attempts", "input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens",
    "cache_write_1h_tokens", "unpriced", "unbounded",
)  # fmt: skip
_NAMES = ("hour", "client_key", "tenant", "labels", "target", "provider", "model", "kind")
_TABLES = (
    f"CREATE TABLE IF NOT EXISTS usage (hour INTEGER, {' TEXT, '.join(_NAMES[1:])} TEXT, {' INTEGER, '.join(_SUMS)} INTEGER,"
    f" usd TEXT, PRIMARY KEY ({', '.join(_NAMES)})) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS journals (run TEXT PRIMARY KEY, number INTEGER NOT NULL);"
)
_COLUMNS = (*_NAMES, *_SUMS, "usd")
_OURS = {
    "usage": frozenset(_COLUMNS),
    "journals": frozenset({"run", "number"}),
    "spent": frozenset({"key", "period", "usd", "ends"}),
}
_ADD = (
    f"INSERT INTO usage ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 - our own words
    f" ON CONFLICT DO UPDATE SET {', '.join(f'{n} = usage.{n} + excluded.{n}' for n in _SUMS)},"
    " usd = exact_sum(usage.usd, excluded.usd)"
)
_ADDED = "INSERT INTO journals VALUES (?, ?) ON CONFLICT DO UPDATE SET number = excluded.number"
_READ = f"SELECT {', '.join(_COLUMNS)} FROM usage WHERE hour >= ? AND hour < ?"  # noqa: S608


class UsageRow(NamedTuple):
    """The key of a row. `hour` counts from the epoch, `target` is the name in the settings, or "".

    `kind` is one of `cost.accounts.KINDS`, or "free".
    """

    hour: int
    key: str
    tenant: str
    labels: Labels
    target: str
    provider: str
    model: str
    kind: str = ""


@dataclass(slots=True, kw_only=True)
class UsageSum(PricedSum):
    """Attempts, their tokens and dollars. `unpriced`: no known price; `unbounded`: neither usage nor bound."""

    unpriced: int = 0
    unbounded: int = 0

    def put_attempt(self, usage: Usage | None, usd: Decimal | None) -> None:
        """Add an attempt; without a usage, its tokens are unknown."""
        self.put(usage, usd)
        self.unbounded += usage is None
        self.unpriced += usage is not None and usd is None

    def merge(self, other: "UsageSum") -> None:
        self.add(other.usage, other.attempts)
        self.usd = EXACT.add(self.usd, other.usd)
        self.unpriced += other.unpriced
        self.unbounded += other.unbounded


Sums = dict[UsageRow, UsageSum]


def kind_of(outcome: Outcome) -> str:
    if outcome.verdict is Verdict.OK:
        return "used_uncounted" if outcome.usage is None else "useful"
    if outcome.usage is not None:
        return "wasted"
    return "wasted_open" if outcome.maybe_processed else FREE


def put(
    sums: Sums,
    row: UsageRow,
    usage: Usage | None,
    bound: Usage | None,
    price_of: PriceOf,
    *,
    usd: Decimal | None = None,
) -> Decimal | None:
    """Add an attempt to the sum of its row; return its cost, or its maximum by `bound`; None if unknown or free.

    `usd` is that cost, if it is known already.
    """
    found = sums.get(row)
    if found is None:
        found = sums[row] = UsageSum()
    if row.kind == FREE:
        found.attempts += 1
        return None
    is_known = row.kind in KNOWN
    tokens, cost = (usage, known_cost) if is_known else (bound, known_max_cost)
    if usd is None and tokens is not None:
        usd = cost(known_prices(price_of, row.provider, row.model), tokens)
    found.put_attempt(tokens, usd)
    return usd


class UsageFile:
    """The rows in the ledger file. Its methods block on the disk. Several processes may use it.

    Raises:
        sqlite3.Error: from each method, if the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self) -> None:
        """Make the tables; a new file is private."""
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        with closing(self._connect()) as db:
            check_tables(db)
            db.executescript(_TABLES)

    def add(self, sums: Sums, run: str, number: int) -> None:
        """Add sums of the journals of a run up to `number`; a number that is already there changes nothing."""
        encode = msgspec.json.Encoder().encode
        rows = [
            (*row[:3], encode(row.labels).decode(), *row[4:], *(getattr(each, n) for n in _SUMS), str(each.usd))
            for row, each in sums.items()
        ]  # fmt: skip
        with closing(self._connect()) as db:
            db.create_function("exact_sum", 2, _exact_sum, deterministic=True)
            with db:
                db.execute("BEGIN IMMEDIATE")
                if _added(db).get(run, -1) < number:
                    db.executemany(_ADD, rows)
                    db.execute(_ADDED, (run, number))

    def journals(self) -> Mapping[str, int]:
        """Return the number of the last journal of each run that is in the rows."""
        with closing(self._connect()) as db:
            return _added(db)

    def read(self, since: int, until: int) -> tuple[Sums, Mapping[str, int]]:
        """Return the sums from hour `since` until before `until`, and the `journals` in them."""
        try:
            return self._read(since, until, read_only=True)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
                raise
        return self._read(
            since, until, read_only=False
        )  # rolls back the transaction of a killed writer

    def _read(self, since: int, until: int, *, read_only: bool) -> tuple[Sums, Mapping[str, int]]:
        with closing(self._connect(read_only=read_only)) as db, db:
            db.execute("BEGIN")
            rows, added = db.execute(_READ, (since, until)).fetchall(), _added(db)
        # This takes long, and no process can write until the file is closed.
        return dict(map(_row, rows)), added

    def _connect(self, *, read_only: bool = False) -> sqlite3.Connection:
        where = f"{self._path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
        return sqlite3.connect(where, uri=True, timeout=TIMEOUT, isolation_level=None)


def check_tables(db: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError if another program has made a table with the name of a ledger table."""
    for name, columns in _OURS.items():
        found = {row[1] for row in db.execute(f"PRAGMA table_info({name})")}
        if found and not found >= columns:
            why = "belongs to another program; choose another file"
            raise sqlite3.DatabaseError(f"its table {name} {why}")


def _added(db: sqlite3.Connection) -> Mapping[str, int]:
    return dict(db.execute("SELECT run, number FROM journals"))


def _exact_sum(first: str, second: str) -> str:
    return str(EXACT.add(Decimal(first), Decimal(second)))


def _row(cells: tuple[object, ...]) -> tuple[UsageRow, UsageSum]:
    names, sums, usd = cells[: len(_NAMES)], cells[len(_NAMES) : -1], cells[-1]
    row = msgspec.convert((*names[:3], msgspec.json.decode(str(names[3])), *names[4:]), UsageRow)
    return row, UsageSum(**dict(zip(_SUMS, sums, strict=True)), usd=Decimal(str(usd)))  # type: ignore[arg-type]
