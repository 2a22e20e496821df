"""Journals of the attempts of a gateway, next to its ledger file: a kill loses none and counts none twice.

A run writes a line before it sends an attempt, and another when the attempt ends; the kernel keeps them even after
`kill -9`. Every few seconds the run begins a new journal with the attempts that continue, adds the sums of the old one
to the ledger, which notes its number in the same transaction, and removes the old one. The next start does this for the
journals of a killed run. Attempts that such a run had sent count with their bounds: their cost is unknown.
"""

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path

import msgspec

from stormbreak.cost.price_source import PriceOf
from stormbreak.gateway.usage_rows import Sums, UsageRow, put
from stormbreak.types import Usage

# after the name of the ledger: the run, and the number
_NAME = re.compile(r"\.([0-9a-f]{8})\.([0-9]{1,12})")
_UNKNOWN = "wasted_open"  # the kind of an attempt that did not end


class Sent(msgspec.Struct, frozen=True, array_like=True, tag="sent"):
    """The start of an attempt."""

    number: int
    row: UsageRow
    bound: Usage | None


class Ended(msgspec.Struct, frozen=True, array_like=True, tag="ended"):
    """The end of an attempt; without a usage, its bound counts. `usd` is its cost at the gateway's prices, if known."""

    number: int
    kind: str
    usage: Usage | None
    usd: Decimal | None = None


_ENCODE = msgspec.json.Encoder().encode
_DECODE = msgspec.json.Decoder(Sent | Ended).decode


class Journal:
    """One journal of a run. A lock shows that its run is alive. Raises OSError if it cannot be made."""

    def __init__(self, ledger: Path, run: str, number: int) -> None:
        self.run = run
        self.number = number
        self._path = ledger.with_name(f"{ledger.name}.{run}.{number}")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        self._broken = False
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, line: Sent | Ended) -> bool:
        """Write a line; return False if that fails. Then it accepts no more lines: the last one may be torn."""
        if self._broken:
            return True
        data = _ENCODE(line) + b"\n"
        try:
            self._broken = os.write(self._descriptor, data) < len(data)
        except OSError:
            self._broken = True
        return not self._broken

    def remove(self) -> None:
        """Remove the journal, once the ledger has it."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def journals_of(ledger: Path) -> dict[str, dict[int, Path]]:
    """Return the journals next to a ledger, by run and number, in order."""
    found: dict[str, dict[int, Path]] = {}
    for path in ledger.parent.glob(f"{ledger.name}.*"):
        named = _NAME.fullmatch(path.name.removeprefix(ledger.name))
        if named is not None:
            found.setdefault(named[1], {})[int(named[2])] = path
    return {run: dict(sorted(paths.items())) for run, paths in found.items()}


def replay(journals: Iterable[bytes], price_of: PriceOf) -> Sums:
    """Add up the attempts in the journals of one run, in order; those that did not end count with their bounds."""
    sums: Sums = {}
    going: dict[int, Sent] = {}
    for line in _lines(journals):
        if isinstance(line, Sent):
            going[line.number] = line
        elif (sent := going.pop(line.number, None)) is not None:
            row = sent.row._replace(kind=line.kind)
            put(sums, row, line.usage, sent.bound, price_of, usd=line.usd)
    for sent in going.values():
        put(sums, sent.row._replace(kind=_UNKNOWN), None, sent.bound, price_of)
    return sums


def _lines(journals: Iterable[bytes]) -> Iterator[Sent | Ended]:
    for data in journals:
        for line in data.split(b"\n")[:-1]:  # text after the last newline is torn
            with suppress(msgspec.DecodeError):
                yield _DECODE(line)


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold the lock of a journal, unless a live process has it; yield whether it is held."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        mine = False
    try:
        yield mine
    finally:
        os.close(descriptor)
