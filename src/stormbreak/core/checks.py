"""The checks that policy values make of themselves."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import is_dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from stormbreak.errors import ConfigurationError

SHORTEST_WINDOW = 1e-6
"""Seconds: a window is cut into slices, and times are divided by their width."""

LONGEST_SHOWN = 100  # characters of a value


def require(holds: bool, rule: str, value: object) -> None:  # noqa: FBT001
    """Raise a ConfigurationError "<rule>, got <value>" unless the rule holds (NaN never does)."""
    if not holds:
        raise ConfigurationError(f"{rule}, got {shown(value)}")


def require_window(name: str, seconds: float) -> None:
    """Refuse a window that is none, or too short to be counted in."""
    require(seconds > 0, f"{name} must be positive", seconds)
    require(seconds >= SHORTEST_WINDOW, f"{name} must be at least {SHORTEST_WINDOW:g}", seconds)


def require_number(name: str, value: object) -> None:
    """Refuse what is no number."""
    holds, rule = _TESTS[float]
    require_type(holds(value), f"{name} must be {rule}", value)


def require_type(holds: bool, rule: str, value: object) -> None:  # noqa: FBT001
    """Raise a ConfigurationError that shows a number as it is, and of anything else its type: it may be a secret."""
    require(holds, rule, value if isinstance(value, Real) else type(value).__name__)


def check_types(part: Any) -> None:
    """Refuse a field of a policy value that has not the type that its class declares.

    Whole numbers, numbers, switches, words and parts are checked; collections are left to the class itself. None
    stands where the class allows it.
    """
    kind: Hashable = type(part)
    for name, allowed, rule in _rules(kind):
        value = getattr(part, name)
        require_type(any(holds(value) for holds in allowed), f"{name} must be {rule}", value)


_Test: TypeAlias = tuple[Callable[[Any], bool], str]

_TESTS: Mapping[Any, _Test] = {
    NoneType: (lambda value: value is None, "None"),
    bool: (lambda value: isinstance(value, bool), "True or False"),
    int: (
        lambda value: isinstance(value, Integral) and not isinstance(value, bool),
        "a whole number",
    ),
    float: (lambda value: isinstance(value, Real) and not isinstance(value, bool), "a number"),
    str: (lambda value: isinstance(value, str), "a text"),
}


@cache
def _rules(part: Hashable) -> list[tuple[str, list[Callable[[Any], bool]], str]]:
    rules = []
    for name, hint in get_type_hints(part).items():
        members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        tests = [test for test in map(_test, members) if test is not None]
        if len(tests) == len(members):
            rule = " or ".join(word for _, word in tests)
            rules.append((name, [holds for holds, _ in tests], rule))
    return rules


def _test(hint: Any) -> _Test | None:
    """Return how to recognise a value of that type, and what to call it; None: it is not checked."""
    if get_origin(hint) is Literal:
        words = get_args(hint)
        return lambda value: value in words, " or ".join(map(repr, words))
    if isinstance(hint, type) and is_dataclass(hint):
        return lambda value: isinstance(value, hint), f"a {hint.__name__}"
    return _TESTS.get(hint)  # of an enumeration, the class says which words there are


def shown(
    value: object, *, longest: int = LONGEST_SHOWN, write: Callable[[object], str] = str
) -> str:
    """A value for a message, as `write` has it, not at length."""
    try:
        text = write(value)
    except ValueError:  # Python writes no integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= longest else f"{text[:longest]}..."
