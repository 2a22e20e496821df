"""What client keys and tenants have spent, on disk: a gateway that is killed and started again forgets nothing.

A row says how far a key may have spent in one kind of period. It is written before that is spent, as for batches (ADR 41), and
exactly when the gateway ends. One process at a time writes these rows, with workers their parent, whose store notes
there what it grants: it has the lock of the file FILE.lock. `usage_rows` keeps others in the same file.
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
from stormbreak.fleet.lease_renewal import MICRO, micro_dollars
from stormbreak.fleet.parent_store import Money, ParentStore
from stormbreak.gateway.keys import LimitHolder
from stormbreak.gateway.usage_rows import TIMEOUT, check_tables

LOWER_AFTER = 1.0  # seconds until less is written ahead, at most so often for a key
MARGIN = 1.0  # seconds that a period may end later than was written
_TABLE = (
    "CREATE TABLE IF NOT EXISTS spent"
    " (key TEXT, period TEXT, usd TEXT NOT NULL, ends REAL, PRIMARY KEY (key, period))"
)


class Spent(NamedTuple):
    """US dollars that a key may have spent, and the seconds until its period ends (None: never)."""

    usd: Decimal
    ends_in: float | None


class LedgerError(Exception):
    """The file cannot be written."""


class SpendLedger:
    """The file. Its methods block on the disk; `write` may run in a thread. `clock` returns unix epoch seconds.

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
            reason = "another process has it: each gateway needs its own, or all share a [fleet]"
        return ConfigurationError(f"gateway.ledger {self.path}: {reason}")

    def read(self, title: str, per: str) -> Spent | None:
        """Return what a holder may have spent in a period that is not over; None: nothing.

        For a period that it never had, that is the most of those that end, if this one does.
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
        """Write what a holder may have spent in its period, before it does. Raises LedgerError if it cannot be written."""
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
    """Return the descriptor of a lock file that no other process has."""
    beside = path.with_name(f"{path.name}.lock")
    descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def ledger_path(file: Path, settings: GatewaySettings, policy: Policy) -> Path | None:
    """Return the file that says how far keys may have spent; None: there is none, or the store of a fleet says so."""
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
        """Return what a key may have spent in a period that is not over."""
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
        """Write ahead, if need be, or that less may be spent than was written; return whether enough is written."""
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
            self._noted[scope] = ahead  # before the file says so: until then it says more
        try:
            self._write(scope, ahead)
        except LedgerError:
            return covers
        self._noted[scope], self._noted_at[scope] = ahead, now
        return True

    def close(self, store: ParentStore) -> None:
        """Write what was spent exactly, and close the ledger."""
        for scope in self.scopes:
            money = store.money(scope)
            if money is not None:
                with suppress(LedgerError):  # more than that is written already
                    self._write(scope, money)
        self._ledger.close()

    def _write(self, scope: str, money: Money) -> None:
        ends_in = None if money.ends_in is None else money.ends_in + MARGIN
        holder, spent = self.scopes[scope], Spent(Decimal(money.micro) / MICRO, ends_in)
        self._ledger.write(holder.title, holder.limits.spend.per, spent)
