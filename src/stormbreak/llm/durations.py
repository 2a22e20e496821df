"""Spans of time as servers write them: plain numbers, Go durations and a few English words."""

import math
import re

LONGEST = 10 * 365 * 86_400.0
"""Ten years stand for every longer wait: no call waits that long, so all of them fail at once."""

_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86_400.0,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)", re.ASCII)
GO_DURATION = r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h|d))+"
_GO = re.compile(GO_DURATION, re.ASCII)
_WORDS = re.compile(
    r"(\d+(?:\.\d+)?) ?(?:(millisecond)|(second|sec)|(minute|min)|(hour)|(day))s?", re.ASCII
)
_WORD_SECONDS = (1e-3, 1.0, 60.0, 3600.0, 86_400.0)


def number(text: str) -> float | None:
    """Read digits with an optional fraction; a sign, an exponent, `inf`, `nan` and hexadecimal make no number.

    A number beyond the range of floats is infinite here: a wait that long is long, not absent.
    """
    return float(text) if _NUMBER.fullmatch(text) else None


def duration(text: str) -> float | None:
    """Read `1m3s`, `2m59.56s`, `12ms`, `1d2h` or `37 seconds`, in seconds."""
    if _GO.fullmatch(text):
        return math.fsum(float(amount) * _UNITS[unit] for amount, unit in _PART.findall(text))
    words = _WORDS.fullmatch(text)
    if words is None:
        return None
    amount, *units = words.groups()
    return float(amount) * next(
        worth for unit, worth in zip(units, _WORD_SECONDS, strict=True) if unit
    )


def wait(seconds: float | None) -> float | None:
    """Make a wait of a span: None for one that is absent, zero, negative or no number; never above LONGEST."""
    if seconds is None or math.isnan(seconds) or seconds <= 0:
        return None
    return min(seconds, LONGEST)
