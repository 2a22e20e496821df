"""Conditions on the measures for `--assert` and `check`: a small grammar, never evaluated as code.

::

    assertion  = every { "or" every }
    every      = part { "and" part }
    part       = "(" assertion ")" | measure comparison value
    comparison = "<" | "<=" | ">" | ">=" | "==" | "!="
    value      = a decimal number, or "never" for a time that was never reached

A time that was never reached exceeds any number. No comparison holds for an undefined share.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from math import inf
from typing import TypeAlias, get_type_hints

from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import looks_like_key
from stormbreak.storm.measures import SHARES, Measures, rounded

NEVER = "never"
OF_NOTHING = "undefined"

_MAX_LENGTH = 1000  # characters of an assertion
_SHOWN = 40  # of them, in a message
_MAX_DEPTH = 20  # parentheses in parentheses
_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_TOKEN = re.compile(rf"\s*(?:[A-Za-z_]\w*|{_NUMBER}(?![\w.])|<=|>=|==|!=|<|>|\(|\))", re.ASCII)
_WORD_BREAKS = re.compile(r"[\s<>=!()]+")
_IN_SHARES = SHARES | {"wasted", "within_1", "within_5"}
_MAX_SHARE = 1.5  # a larger number is a percentage: the condition would hold always or never
_HINTS: Mapping[str, str] = {
    "%": "; write 0.9 for 90 %",
    "=": "; write ==",
    "&": "; write and",
    "|": "; write or",
}
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
NAMES = tuple(field.name for field in fields(Measures))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Comparison of one measure with a number."""

    measure: str
    sign: str
    value: float

    def holds(self, measures: object) -> bool:
        number = getattr(measures, self.measure)
        if number is None and self.measure in _IN_SHARES:
            return False
        return _COMPARISONS[self.sign](inf if number is None else number, self.value)

    def names(self) -> tuple[str, ...]:
        return (self.measure,)


@dataclass(frozen=True, slots=True, kw_only=True)
class AndOr:
    """Several conditions, of which all or any must hold."""

    together: Callable[[list[bool]], bool]
    parts: tuple["Assertion", ...]

    def holds(self, measures: object) -> bool:
        return self.together([part.holds(measures) for part in self.parts])

    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.parts for name in part.names()))


Assertion: TypeAlias = Comparison | AndOr


def parse_assertion(text: str, *, source: str = "--assert", about: type = Measures) -> Assertion:
    """Parse a condition on the fields of the dataclass `about`, given by option `source`; raise ConfigurationError."""
    try:
        return _Reader(text, about).read()
    except _SyntaxError as error:
        secret = any(map(looks_like_key, _WORD_BREAKS.split(text)))
        reason = "cannot be parsed, and contains what looks like a key" if secret else error
        raise ConfigurationError(f"{source}: {reason}") from None


def values(assertion: Assertion, measures: object) -> str:
    found = ((name, rounded(getattr(measures, name))) for name in assertion.names())
    return ", ".join(f"{name} is {_describe(name, value)}" for name, value in found)


def _describe(name: str, value: float | None) -> str:
    if value is None:
        return OF_NOTHING if name in _IN_SHARES else NEVER
    return str(value)


class _SyntaxError(ValueError):
    """A text that is not a condition."""


class _Reader:
    """Reads tokens from left to right; the methods follow the grammar."""

    def __init__(self, text: str, about: type) -> None:
        self._names = tuple(field.name for field in fields(about))
        hints = get_type_hints(about)
        times = {name for name in self._names if hints[name] == float | None}
        self._may_never_come = times.difference(_IN_SHARES)
        self._tokens = _tokens(text)
        self._place = 0
        self._depth = 0

    def read(self) -> Assertion:
        assertion = self._assertion()
        if self._place < len(self._tokens):
            raise _SyntaxError(f"unexpected {self._tokens[self._place]!r}")
        return assertion

    def _assertion(self) -> Assertion:
        return self._joined("or", any, self._every)

    def _every(self) -> Assertion:
        return self._joined("and", all, self._part)

    def _joined(
        self, word: str, together: Callable[[list[bool]], bool], read: Callable[[], Assertion]
    ) -> Assertion:
        parts = [read()]
        while self._peek() == word:
            self._place += 1
            parts.append(read())
        return parts[0] if len(parts) == 1 else AndOr(together=together, parts=tuple(parts))

    def _part(self) -> Assertion:
        if self._peek() != "(":
            return self._comparison()
        self._place += 1
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _SyntaxError(f"more than {_MAX_DEPTH} nested parentheses")
        assertion = self._assertion()
        if self._next() != ")":
            raise _SyntaxError("a closing parenthesis is missing")
        self._depth -= 1
        return assertion

    def _comparison(self) -> Comparison:
        measure = self._next()
        if measure not in self._names:
            raise _SyntaxError(_no_measure(measure, self._names))
        sign = self._next()
        if sign not in _COMPARISONS:
            raise _SyntaxError(
                f"{measure} must be followed by one of {' '.join(_COMPARISONS)}, got {sign!r}"
            )
        return Comparison(measure=measure, sign=sign, value=self._value(measure))

    def _value(self, measure: str) -> float:
        word = self._next()
        if word == NEVER and measure in self._may_never_come:
            return inf
        if not re.fullmatch(_NUMBER, word, re.ASCII) or float(word) == inf:
            raise _SyntaxError(f"{measure} must be compared with a number, got {word[:_SHOWN]!r}")
        if measure in _IN_SHARES and float(word) > _MAX_SHARE:
            raise _SyntaxError(f"{measure} is a share, 0.9 for 90 %, got {word[:_SHOWN]}")
        return float(word)

    def _peek(self) -> str:
        return self._tokens[self._place] if self._place < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._place += 1
        return token


def _tokens(text: str) -> list[str]:
    if len(text) > _MAX_LENGTH:
        raise _SyntaxError(f"longer than {_MAX_LENGTH} characters")
    tokens, place, end = [], 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            rest = text[place:].strip()
            raise _SyntaxError(f"cannot be parsed from {rest[:20]!r} on{_HINTS.get(rest[0], '')}")
        tokens.append(match[0].strip())
        place = match.end()
    return tokens


def _no_measure(name: str, names: Sequence[str]) -> str:
    if not name:
        return "unexpected end"
    near = get_close_matches(name.lower(), names, n=1, cutoff=0.0)
    return f"{name!r} is not a measure; did you mean {near[0]}? Measures: {', '.join(names)}"
