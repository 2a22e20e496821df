"""A number that is given on the command line, between two others."""

import math

import click

from stormbreak.keylike import quoted


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
