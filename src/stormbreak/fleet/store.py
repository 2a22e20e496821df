"""Stores: where the state of a fleet is kept. One owner sends one group of reports after another."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from stormbreak.fleet.messages import Answer, Report

TIMEOUT = 1.0  # seconds for which a store may take to answer; a later answer closes the connection


class StoreError(Exception):
    """The store has not answered; the text is short and has no secrets."""


class Message(NamedTuple):
    """A report of one member in one scope."""

    scope: str
    member: str
    report: Report


class Store(Protocol):
    """A store of scopes. It is used by one thread at a time."""

    def beat(self, messages: Sequence[Message]) -> list[Answer]:
        """Process reports, and answer each of them.

        Raises:
            StoreError: it did not answer; each report may have been processed or not.
        """

    def warnings(self) -> list[str]:
        """Say what makes limits of this store less exact; it may ask the store."""

    def close(self) -> None:
        """Close the connection, if there is one; the next beat opens another."""


def open_store(url: str) -> Store:
    """Return the store at `url`, which is not asked yet.

    Raises:
        ConfigurationError: a package is missing.
    """
    if url.startswith("parent:"):
        from stormbreak.fleet.parent_store import ParentClient  # noqa: PLC0415 - each store loads its own

        return ParentClient(url)
    from stormbreak.fleet.valkey import ValkeyStore  # noqa: PLC0415

    return ValkeyStore(url)
