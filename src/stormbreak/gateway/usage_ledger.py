"""The usage of the attempts of this gateway: for the ledger file, and in dollars for Prometheus."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from decimal import Decimal
from math import inf
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple

import msgspec

from stormbreak.core.flow import Send
from stormbreak.cost.price_source import EXACT, NOTHING, PriceOf
from stormbreak.drivers.asyncio_driver import Sender
from stormbreak.drivers.scope import Scope
from stormbreak.errors import ConfigurationError
from stormbreak.escape import LABEL, shown
from stormbreak.gateway.keys import ClientKey
from stormbreak.gateway.logs import LOG
from stormbreak.gateway.settled_sender import SettledSender
from stormbreak.gateway.usage_journal import Ended, Journal, Sent, held, journals_of, replay
from stormbreak.gateway.usage_rows import (
    FREE,
    HOUR,
    KNOWN,
    Sums,
    UsageFile,
    UsageRow,
    kind_of,
    put,
)
from stormbreak.llm.parsed_response import NO_USAGE
from stormbreak.telemetry.labels import OTHER, Targets
from stormbreak.types import CANCELLED_AFTER_SEND, Outcome, Target, Usage

INTERVAL = 5.0  # seconds between two additions to the file
MAX_WAITING = 2  # journals that the file could not take; then the current one continues
MAX_PLACES = 1_000  # targets with their own rows; clients may choose the names of models
_NO_ROW = None, UsageRow(-1, "", "", (), "", "", "")
MAX_SERIES = 2_000  # labels of each metric of money; further keys and targets share one


class SpentBy(NamedTuple):
    """The labels of a metric of money."""

    key: str
    tenant: str
    target: str


class UsageLedger:
    """Counts attempts, on the event loop, and adds them to the ledger file every few seconds, in a thread.

    `clock` returns unix epoch seconds. Raises ConfigurationError if the file cannot be used.
    """

    def __init__(
        self, path: Path, price_of: PriceOf, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._file = UsageFile(path)
        self._price_of = price_of
        self._clock = clock
        self._run = token_hex(4)
        self._attempts = 0
        self._going: dict[int, Sent] = {}
        self._sums: Sums = {}
        self._waiting: list[tuple[Sums, Journal]] = []
        self._places: dict[Target, tuple[str, str, str]] = {}
        self._rows: dict[tuple[str, Target], tuple[Scope | None, UsageRow]] = {}  # the last
        self._targets = Targets()
        self.spent: dict[SpentBy, list[Decimal]] = {}
        """US dollars of attempts with a usage, and the maximum cost of the others, since the start."""
        try:
            self._file.create()
            self._recover()
            self._journal = Journal(path, self._run, 0)
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"gateway.ledger {path}: {error}") from None

    def sent(self, key: ClientKey, target: Target, bound: Usage | None) -> Sent:
        """Note an attempt before it is sent; `bound` is its maximum usage."""
        self._attempts += 1
        hour = int(self._clock()) // HOUR
        scope, row = self._rows.get((key.name, target), _NO_ROW)
        if row.hour != hour or scope is not key.scope:
            row = self._row(hour, key, target)
        sent = self._going[self._attempts] = Sent(self._attempts, row, bound)
        self._write(sent)
        return sent

    def ended(self, sent: Sent, outcome: Outcome) -> None:
        if self._going.pop(sent.number, None) is None:  # the ledger was closed meanwhile
            return
        is_free = outcome.usage is None and sent.bound == NO_USAGE  # counting tokens is free
        kind = FREE if is_free else kind_of(outcome)
        row = UsageRow(*sent.row[:-1], kind)
        usd = put(self._sums, row, outcome.usage, sent.bound, self._price_of)
        self._write(Ended(sent.number, kind, outcome.usage, usd))
        if usd:
            spent, is_bound = self._spent_by(row), kind not in KNOWN
            spent[is_bound] = EXACT.add(spent[is_bound], usd)

    async def run(self) -> None:
        """Add the counts to the file, every few seconds."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.flush()

    async def flush(self) -> None:
        if self._rotate():
            await asyncio.to_thread(self._add)

    def close(self) -> None:
        """Add the rest; attempts that have not ended count as unknown."""
        for sent in tuple(self._going.values()):
            self.ended(sent, CANCELLED_AFTER_SEND)
        self._rotate()
        self._add()
        if not self._waiting:
            self._journal.remove()

    def _row(self, hour: int, key: ClientKey, target: Target) -> UsageRow:
        """Make the row of a key's attempts at a target in an hour, and cache it."""
        scope, place = key.scope, self._place(target)
        row = UsageRow(hour, key.name, scope.tenant or "", scope.labels, *place)
        if len(self._rows) >= MAX_PLACES:
            self._rows.clear()
        self._rows[key.name, target] = scope, row
        return row

    def _spent_by(self, row: UsageRow) -> list[Decimal]:
        label = self._targets.label(Target(row.provider, row.model, name=row.target))
        name = SpentBy(row.key, row.tenant, label)
        if name not in self.spent and len(self.spent) >= MAX_SERIES:
            name = SpentBy("other", "other", "other")
        return self.spent.setdefault(name, [NOTHING, NOTHING])

    def _place(self, target: Target) -> tuple[str, str, str]:
        """Return the name of a target, its provider and model, as in the rows."""
        place = self._places.get(target)
        if place is None:
            place = target.name, shown(target.provider, LABEL), shown(target.model, LABEL)
            if len(self._places) >= MAX_PLACES:
                return target.name, place[1], OTHER
            self._places[target] = place
        return place

    def _write(self, line: Sent | Ended) -> None:
        if not self._journal.write(line):
            what = "its journal cannot be written: a kill may lose %g s of usage"
            LOG.warning(f"gateway.ledger %s: {what}", self._path, INTERVAL)

    def _rotate(self) -> bool:
        """Begin a new journal, if anything was counted; return whether there is something to add."""
        if self._sums and len(self._waiting) < MAX_WAITING:
            try:
                journal = Journal(self._path, self._run, self._journal.number + 1)
            except OSError as error:
                LOG.warning("gateway.ledger %s: %s", self._path, error)
                return False
            for sent in self._going.values():
                journal.write(sent)
            self._waiting.append((self._sums, self._journal))
            self._sums, self._journal = {}, journal
        return bool(self._waiting)

    def _add(self) -> None:
        while self._waiting:
            sums, journal = self._waiting[0]
            try:
                self._file.add(sums, self._run, journal.number)
                journal.remove()
            except (OSError, sqlite3.Error) as error:
                LOG.warning(
                    "gateway.ledger %s: usage cannot be written, and is kept for later: %s",
                    self._path,
                    error,
                )
                return
            del self._waiting[0]

    def _recover(self) -> None:
        """Add the journals of runs that were killed."""
        for run, paths in journals_of(self._path).items():
            last = max(paths)
            with held(paths[last]) as is_dead:
                if not is_dead:
                    continue
                added = self._file.journals().get(run, -1)
                left = [path.read_bytes() for number, path in paths.items() if number > added]
                self._file.add(replay(left, self._price_of), run, last)
                for path in paths.values():
                    path.unlink(missing_ok=True)


class MeteredSender(SettledSender[Sent]):
    """Notes each attempt of a call in the ledger, before `sender` makes it. `bound` is the maximum usage of one."""

    def __init__(
        self, sender: Sender, ledger: UsageLedger, key: ClientKey, bound: Usage | None
    ) -> None:
        super().__init__(sender)
        self._ledger = ledger
        self._key = key
        self._bound = bound

    def __call__(self, command: Send) -> Coroutine[Any, Any, Outcome]:
        sent = self._ledger.sent(self._key, command.target, self._bound)
        return self._send(command, sent)

    def _settle(self, taken: Sent, outcome: Outcome) -> None:
        self._ledger.ended(taken, outcome)


def read_usage(path: Path, price_of: PriceOf, since: float = 0, until: float = inf) -> Sums:
    """Return the usage so far of the attempts that were sent from `since` to `until`, in unix seconds.

    Whole hours count. It may be called while gateways write the file. `price_of` is for attempts that have not ended, or
    whose price the gateway does not know. Raises ConfigurationError if the file cannot be read.
    """
    first, end = int(since // HOUR), 2**40 if until == inf else int(-(-until // HOUR))
    try:
        left = {run: _contents(paths) for run, paths in journals_of(path).items()}
        sums, added = UsageFile(path).read(first, end)
    except sqlite3.Error as error:
        raise ConfigurationError(f"{path}: {error}") from None
    except (ArithmeticError, msgspec.MsgspecError):
        raise ConfigurationError(f"{path}: a row was not written by a gateway") from None
    for run, contents in left.items():
        journals = (data for number, data in contents if number > added.get(run, -1))
        for row, each in replay(journals, price_of).items():
            if not first <= row.hour < end:
                continue
            if row in sums:
                sums[row].merge(each)
            else:
                sums[row] = each
    return sums


def _contents(paths: dict[int, Path]) -> list[tuple[int, bytes]]:
    found = []
    for number, path in paths.items():
        with suppress(FileNotFoundError):  # the ledger has it now
            found.append((number, path.read_bytes()))
    return found
