"""Measuring in alternating rounds: every subject runs once per round, so that all meet the same machine."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Figure(NamedTuple):
    """One line of the report: what was measured, every round of it, and what it means."""

    name: str
    unit: str
    samples: tuple[float, ...]
    goal: str = ""
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def low(self) -> float:
        return min(self.samples)

    @property
    def high(self) -> float:
        return max(self.samples)


class Section(NamedTuple):
    """A table of the report. `remarks` are sentences that stand below it."""

    title: str
    figures: Sequence[Figure]
    remarks: Sequence[str] = ()


def alternate(
    subjects: Sequence[T], measure: Callable[[T], R], *, rounds: int
) -> list[tuple[R, ...]]:
    """Measure every subject once a round, each round in the opposite order; one tuple per subject."""
    samples: list[list[R]] = [[] for _ in subjects]
    for number in range(rounds):
        places = range(len(subjects))
        for place in reversed(places) if number % 2 else places:
            samples[place].append(measure(subjects[place]))
    return [tuple(one) for one in samples]


def minus(samples: Iterable[float], base: Iterable[float]) -> tuple[float, ...]:
    """Subtract, round by round."""
    return tuple(a - b for a, b in zip(samples, base, strict=True))


def share(samples: Iterable[float], base: Iterable[float]) -> tuple[float, ...]:
    """Divide, round by round, in per cent."""
    return tuple(100 * a / b for a, b in zip(samples, base, strict=True))
