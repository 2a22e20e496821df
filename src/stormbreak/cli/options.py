"""Option types, and the options that have one meaning in every command."""

from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import click

from stormbreak.cli.command import Value, flag, option
from stormbreak.hidden_keys import quoted
from stormbreak.provider.field_ranges import MAX_SPEED, MIN_SPEED


class Integer(Value[int]):
    """A whole number from `low` to `high`."""

    def __init__(self, low: int = 1, high: int | None = None, *, name: str = "N") -> None:
        self.name = name
        self._low = low
        self._high = high

    def parse(self, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = self._low - 1
        if number < self._low or (self._high is not None and number > self._high):
            bounds = f"of at least {self._low:,}"
            if self._high is not None:
                bounds = f"from {self._low:,} to {self._high:,}"
            raise ValueError(f"must be a whole number {bounds}, got {quoted(text)}")
        return number


class Number(Value[float]):
    """A number from `low` to `high`; without bounds, a positive one."""

    def __init__(self, low: float = 0, high: float = inf, *, name: str = "N") -> None:
        self.name = name
        self._low = low
        self._high = high

    def parse(self, text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = nan
        if not (self._low <= number <= self._high and 0 < number < inf):
            wanted = f"from {self._low:g} to {self._high:,}" if self._low else "above 0"
            raise ValueError(f"must be a number {wanted}, got {quoted(text)}")
        return number


class Names(Value[tuple[str, ...]]):
    """Names with commas between them, without duplicates. Only `is_known` names are allowed; `known` lists them."""

    name = "A,B,..."

    def __init__(self, known: str = "", is_known: Callable[[str], bool] = lambda _: True) -> None:
        self._known = known
        self._is_known = is_known

    def parse(self, text: str) -> tuple[str, ...]:
        """Return the names. Reject a text with only commas, or with an unknown name."""
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
        if text and not names:
            raise ValueError(f"must be names with commas between them, got {quoted(text)}")
        for name in names:
            if not self._is_known(name):
                raise ValueError(f"must be one of {self._known}, got {quoted(name)}")
        return names


class _Path(click.Path):
    def __init__(self, name: str) -> None:
        super().__init__(path_type=Path)
        self.name = name


NAMES = Names()
FILE, DIR = _Path("FILE"), _Path("DIR")
PORT = Integer(0, 65535, name="PORT")
SECONDS = Number(name="SECONDS")

JSON = flag("--json as_json", "Print JSON for programs.")
REPORT = option("--report", "FILE", "Also write a report: FILE.html or FILE.png.")
PRICES = option(
    "--prices", "FILE", "Price file, or article-2025; replaces list prices.", multiple=True
)


def seed(default: int = 0) -> Callable[..., Any]:
    return option("--seed", Integer(0), "The same seed gives the same storm.", default=default)


def speed(default: float | None, note: str) -> Callable[..., Any]:
    return option(
        "--speed",
        Number(MIN_SPEED, MAX_SPEED),
        f"Scenario seconds per real second; {note}.",
        default=default,
    )
