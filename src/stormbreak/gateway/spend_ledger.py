"""The spending of client keys and tenants, on disk: a gateway that is killed and restarted forgets nothing.

A row has the maximum spending of a key in one kind of period. It is written before the money is spent, as for batches
(ADR 41); the exact amount is written when the gateway ends. One process at a time writes these rows and holds the lock
of FILE.lock; with workers that is their parent, whose store records its grants there. `usage_rows` keeps other rows in
the same file.
"""

import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from stormbreak.config.gateway_settings import GatewaySettings
from stormbreak.core.policy import Policy
from stormbreak.core.spend_policy import EVER, restored_end
from stormbreak.cost.spend_gate import PART
from stormbreak.drivers.locks import new_lock
from stormbreak.errors import ConfigurationError
from stormbreak.fleet.lease_renewal import dollars, micro_dollars
from stormbreak.fleet.parent_store import Money, ParentStore
from stormbreak.gateway.keys import LimitHolder
from stormbreak.gateway.usage_rows import TIMEOUT, check_tables

LOWER_AFTER = 1.0  # minimum seconds between two writes that lower the row of a key
MARGIN = 1.0  # seconds by which a period may end later than written
_TABLE = (
    "CREATE TABLE IF NOT EXISTS spent"
    " (key TEXT, period TEXT, usd TEXT NOT NULL, ends REAL, PRIMARY KEY (key, period))"
)


class Spent(NamedTuple):
    """The maximum US dollars that a key has spent, and the seconds until its period ends (None: never)."""

    usd: Decimal
    ends_in: float | None


class LedgerError(Exception):
    """The file cannot be written."""


class SpendLedger:
    """The ledger file. Its methods block on the disk; `write` may run in a thread. `clock` returns unix epoch seconds.

    Raises ConfigurationError if it cannot be opened, or another process has it.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = Path(path)
        self.clock = clock
        self._lock = new_lock()
        try:
            self._held = _locked(self.path)
        except (OSError, ValueError) as error:
            raise self._unusable(error) from None
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.close(descriptor)
            self._db = sqlite3.connect(self.path, timeout=TIMEOUT, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            os.close(self._held)
            raise self._unusable(error) from None
        try:
            self._db.execute("PRAGMA synchronous = FULL")
            with self._db:
                self._db.execute("BEGIN EXCLUSIVE")
                check_tables(self._db)
                self._db.execute(_TABLE)
            self.path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise self._unusable(error) from None

    def _unusable(self, error: Exception) -> ConfigurationError:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, ValueError):  # ".", or a null character
            reason = "not the name of a file"
        if isinstance(error, BlockingIOError):
            reason = "another process uses it: give each gateway its own file, or share a [fleet]"
        return ConfigurationError(f"gateway.ledger {self.path}: {reason}")

    def read(self, title: str, per: str) -> Spent | None:
        """Return the maximum that a holder has spent in the current period; None: nothing.

        If it has no row for this kind of period, and this kind ends, take the maximum of all kinds that end.
        """
        query, now = "SELECT period, usd, ends FROM spent WHERE key = ?", self.clock()
        found = {
            period: Spent(Decimal(usd), None if ends is None else ends - now)
            for period, usd, ends in self._db.execute(query, (title,))
        }
        others = (period for period in found if EVER not in (period, per))
        rows = (found[each] for each in ([per] if per in found else others))
        return max((it for it in rows if it.ends_in is None or it.ends_in > 0), default=None)

    def write(self, title: str, per: str, spent: Spent) -> None:
        """Write the maximum spending of a holder in its period, before it is spent; raise LedgerError on failure."""
        ends = None if spent.ends_in is None else self.clock() + spent.ends_in
        try:
            with self._lock, self._db:
                self._db.execute(
                    "INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?)",
                    (title, per, str(spent.usd), ends),
                )
        except sqlite3.Error as error:
            raise LedgerError(str(error)) from error

    def close(self) -> None:
        with self._lock:
            self._db.close()
        os.close(self._held)


def _locked(path: Path) -> int:
    """Return the descriptor of a lock file that no other process holds."""
    beside = path.with_name(f"{path.name}.lock")
    descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def ledger_path(file: Path, settings: GatewaySettings, policy: Policy) -> Path | None:
    """Return the ledger file of the spending of keys; None if there is none, or the store of a fleet has it."""
    shared = policy.fleet.acts and policy.fleet.spend
    return None if settings.ledger is None or shared else file.parent / settings.ledger


class LedgerRecord:
    """The ledger as the record of a parent's store. `scopes` are the keys and tenants with a spend limit, by scope."""

    def __init__(self, ledger: SpendLedger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._noted: dict[str, Money] = {}
        self._noted_at: dict[str, float] = {}
        self.scopes: Mapping[str, LimitHolder] = {}

    def restored(self, scope: str) -> Money | None:
        """Return the maximum that a key has spent in the current period."""
        holder = self.scopes.get(scope)
        if holder is None:  # the limit of a policy
            return None
        limit = holder.limits.spend
        found, period = self._ledger.read(holder.title, limit.per), limit.period
        if found is None:
            return None
        ends_in = found.ends_in
        if ends_in is not None and period is not None:
            at = self._ledger.clock()
            ends_in = restored_end(period, at + ends_in, at) - at
            if ends_in <= 0:
                return None
        return Money(float(micro_dollars(found.usd)), ends_in)

    def note(self, scope: str, money: Money, limit: float) -> bool:
        """Raise the written amount if needed, or lower it if it is too high; return whether enough is written."""
        if scope not in self.scopes:
            return True
        noted, step, now = self._noted.get(scope), limit / PART, self._clock()
        covers = noted is not None and noted.started == money.started and money.micro <= noted.micro
        if covers and noted is not None:
            much_less = money.micro + 2 * step < noted.micro
            if not much_less or now < self._noted_at[scope] + LOWER_AFTER:
                return True
        ahead = money._replace(micro=max(money.micro, min(limit, money.micro + step)))
        if covers:
            self._noted[scope] = ahead  # before the write: until then the file has a higher amount
        try:
            self._write(scope, ahead)
        except LedgerError:
            return covers
        self._noted[scope], self._noted_at[scope] = ahead, now
        return True

    def close(self, store: ParentStore) -> None:
        """Write the exact spending, and close the ledger."""
        for scope in self.scopes:
            money = store.money(scope)
            if money is not None:
                with suppress(LedgerError):  # a higher amount is already written
                    self._write(scope, money)
        self._ledger.close()

    def _write(self, scope: str, money: Money) -> None:
        ends_in = None if money.ends_in is None else money.ends_in + MARGIN
        holder, spent = self.scopes[scope], Spent(dollars(money.micro), ends_in)
        self._ledger.write(holder.title, holder.limits.spend.per, spent)
