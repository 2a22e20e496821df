"""Checks of policy values."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

from stormbreak.errors import ConfigurationError

MIN_WINDOW = 1e-6  # seconds: a window is cut into slices, and times are divided by their width
MAX_SHOWN = 100  # characters of a value


def require(holds: bool, rule: str, value: object) -> None:  # noqa: FBT001
    """Raise a ConfigurationError "<rule>, got <value>" unless the rule holds (NaN never does)."""
    if not holds:
        raise ConfigurationError(f"{rule}, got {shown(value)}")


def require_positive(part: object, *names: str) -> None:
    """Reject a field that is not positive. None, where its type allows it, sets no bound."""
    for name in names:
        value = getattr(part, name)
        require(value is None or value > 0, f"{name} must be positive", value)


def require_at_least(part: object, least: int, *names: str) -> None:
    """Reject a field below `least`. None, where its type allows it, sets no bound."""
    rule = f"must be at least {least}" if least else "must not be negative"
    for name in names:
        value = getattr(part, name)
        require(value is None or value >= least, f"{name} {rule}", value)


def require_window(name: str, seconds: float) -> None:
    """Reject a window that is not positive, or too short to count in."""
    require(seconds > 0, f"{name} must be positive", seconds)
    require(seconds >= MIN_WINDOW, f"{name} must be at least {MIN_WINDOW:g}", seconds)


def require_number(name: str, value: object) -> None:
    """Reject anything but a number."""
    holds, rule = _TESTS[float]
    require_type(holds(value), f"{name} must be {rule}", value)


def require_type(holds: bool, rule: str, value: object) -> None:  # noqa: FBT001
    """Raise a ConfigurationError that shows a number, but of other values only the type: they may be secrets."""
    require(holds, rule, value if isinstance(value, Real | None) else type(value).__name__)


def check_types(part: object) -> None:
    """Reject a field of a policy value that does not have its declared type.

    It checks numbers, booleans, texts, parts, and collections of these. Enumerations check themselves.

    Raises:
        ConfigurationError: names the field.
    """
    for name, (holds, rule) in _rules(cast("Hashable", type(part))):
        value = getattr(part, name)
        require_type(holds(value), f"{name} must be {rule}", value)


def check_unused(part: Any) -> tuple[str, ...]:
    """Reject a changed field that does not apply to the kind; return the fields of the kind."""
    used: tuple[str, ...] = part.fields_by_kind[part.kind]
    for field in fields(part):
        value = getattr(part, field.name)
        if field.name not in ("kind", *used) and value != field.default:
            raise ConfigurationError(
                f"{field.name} means nothing for the kind {part.kind}, got {shown(value)}"
            )
    return used


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
def _rules(part: Hashable) -> list[tuple[str, _Test]]:
    hints = get_type_hints(part).items()
    return [(name, test) for name, hint in hints if (test := _test(hint)) is not None]


def _test(hint: Any) -> _Test | None:
    """Return the check and the name of a type; None: it is not checked."""
    origin, members = get_origin(hint), get_args(hint)
    if origin is Literal:
        return lambda value: value in members, " or ".join(map(repr, members))
    if origin in (Union, UnionType):
        return _any_of([_test(member) for member in members])
    if origin in (tuple, Mapping):
        return _all_of(origin, _test(members[-1] if origin is Mapping else members[0]))
    if isinstance(hint, type) and is_dataclass(hint):
        return lambda value: isinstance(value, hint), f"a {hint.__name__}"
    return _TESTS.get(hint)


def _any_of(tests: list[_Test | None]) -> _Test | None:
    known = [test for test in tests if test is not None]
    if len(known) < len(tests):
        return None
    return lambda value: any(holds(value) for holds, _ in known), " or ".join(
        rule for _, rule in known
    )


def _all_of(origin: type, item: _Test | None) -> _Test:
    holds, of = (lambda _: True, "") if item is None else (item[0], f", each {item[1]}")
    if origin is Mapping:
        return (
            lambda value: isinstance(value, Mapping) and all(map(holds, value.values())),
            f"a mapping{of}",
        )
    return lambda value: isinstance(value, tuple | list) and all(map(holds, value)), f"a tuple{of}"


def shown(value: object, *, longest: int = MAX_SHOWN, write: Callable[[object], str] = str) -> str:
    """Format a value for a message, shortened."""
    try:
        text = write(value)
    except ValueError:  # Python does not format an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= longest else f"{text[:longest]}..."
