"""Numbers that are given on the command line."""

import math
from typing import Any

import click

from stormbreak.keylike import quoted


class Positive(click.ParamType[float]):
    """A positive number of something, such as seconds."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it; fail with what it must be."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"must be a number of {self.name}, got {quoted(str(value))}", param, ctx)
        if not 0 < number < float("inf"):
            self.fail(f"must be positive and finite, got {value}", param, ctx)
        return number


class Number(click.ParamType[float]):
    """From `least` to `most`; NaN is none."""

    name = "number"

    def __init__(self, least: float, most: float) -> None:
        self._least = least
        self._most = most

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it, or say what it must be."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not self._least <= number <= self._most:
            self.fail(
                f"must be a positive number from {self._least} to {self._most:,}, got {quoted(str(value))}",
                param,
                ctx,
            )
        return number


SECONDS = Positive("seconds")
REQUESTS = Positive("requests")
TOKENS = Positive("tokens")
DOLLARS = Positive("US dollars")
