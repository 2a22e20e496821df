"""Means of several runs, and how far two of them are apart."""

from collections.abc import Iterable
from math import inf, sqrt
from statistics import fmean, stdev
from typing import NamedTuple


class Mean(NamedTuple):
    """A mean and its standard error."""

    value: float
    error: float

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} ±{self.error:{spec}}" if self.error else f"{self.value:{spec}}"


def mean(values: Iterable[float]) -> Mean:
    """The mean of two values or more."""
    known = list(values)
    return Mean(fmean(known), stdev(known) / sqrt(len(known)))


def apart(one: Mean, other: Mean) -> float:
    """By how many standard errors of their difference two means differ."""
    difference = abs(one.value - other.value)
    error = sqrt(one.error**2 + other.error**2)
    if error:
        return difference / error
    return inf if difference else 0.0
