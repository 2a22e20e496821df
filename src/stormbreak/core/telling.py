"""Telling several at once."""

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def call_all(told: Iterable[Callable[[T], None]]) -> Callable[[T], None] | None:
    """One function that tells them all; None where there is nobody to tell."""
    several = tuple(told)
    if len(several) <= 1:
        return several[0] if several else None

    def tell(what: T) -> None:
        for one in several:
            one(what)

    return tell
