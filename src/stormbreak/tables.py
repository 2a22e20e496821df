"""Dataclasses out of the tables of a TOML file: what does not fit is one line with the path of the key and the value.

Callers put the name of the file before it. Ranges are for the dataclasses themselves to check; what they say of a field
gets the path of their table.
"""

from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from stormbreak.core.checks import shown
from stormbreak.errors import ConfigurationError
from stormbreak.key_patterns import is_secret_name, quoted
from stormbreak.toml_file import Table

MAX_SHOWN = 40  # digits
_MAX_ITEMS = 1000  # of a list: whoever reads it looks through them all
_WORDS = {int: "a whole number", bool: "true or false", str: "a string"}

T = TypeVar("T")


def read(kind: type[T], table: Table) -> T:
    """Make a `kind`, a dataclass, of the table. Raises ConfigurationError."""
    value = _read(kind, table, "")
    assert isinstance(value, kind)
    return value


def _read(hint: Any, value: Any, path: str) -> Any:
    """Turn a TOML value into what the type asks for."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _read(parts[0], value, path)
    if origin in {Union, UnionType}:
        return _read(next(part for part in parts if part is not NoneType), value, path)
    if origin is tuple:
        _expect(isinstance(value, list), "a list", value, path)
        _expect(len(value) <= _MAX_ITEMS, f"at most {_MAX_ITEMS} items", len(value), path)
        return tuple(_read(parts[0], item, f"{path}[{place}]") for place, item in enumerate(value))
    if origin is Literal:
        return _choose({choice: choice for choice in parts}, value, path)
    return _read_class(hint, value, path)


def _read_class(kind: Any, value: Any, path: str) -> Any:
    if is_dataclass(kind):
        return _read_table(kind, value, path)
    if issubclass(kind, Enum):
        return _choose({choice.value: choice for choice in kind}, value, path)
    return _read_plain(kind, value, path)


def _read_table(kind: Any, value: Any, path: str) -> Any:
    _expect(isinstance(value, dict), "a table", value, path)
    hints = get_type_hints(kind, include_extras=True)
    names = [item.name for item in fields(kind)]
    prefix = f"{path}." if path else ""
    for key, given in value.items():
        if key not in names:
            known = ", ".join(names)
            raise ConfigurationError(f"unknown key {_unknown(prefix, key, given)}; known: {known}")
    read = {key: _read(hints[key], given, f"{prefix}{key}") for key, given in value.items()}
    missing = [item.name for item in fields(kind) if _needed(item) and item.name not in read]
    if missing:
        lacks = f"{path} lacks" if path else "lacks"
        raise ConfigurationError(f"{lacks} {', '.join(missing)}, got {_show(value)}")
    try:
        return kind(**read)
    except ConfigurationError as error:
        raise ConfigurationError(f"{prefix}{error}") from None


def _needed(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _read_plain(kind: type, value: Any, path: str) -> Any:
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        _expect(number, "a number", value, path)
        return _as_float(value)
    if kind is Decimal:
        number = isinstance(value, int | Decimal) and not isinstance(value, bool)
        _expect(number, "a number", value, path)
        return Decimal(value)
    if kind is date:
        day = isinstance(value, date) and not isinstance(value, datetime)
        _expect(day, "a date such as 2025-11-11", value, path)
        return value
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    _expect(fits, _WORDS[kind], value, path)
    return value


def _choose(choices: dict[Any, Any], value: Any, path: str) -> Any:
    known = ", ".join(choices)
    _expect(isinstance(value, str) and value in choices, f"one of {known}", value, path)
    return choices[value]


def _expect(fits: bool, words: str, value: Any, path: str) -> None:  # noqa: FBT001
    if not fits:
        raise ConfigurationError(f"{path} must be {words}, got {_show(value)}")


def _as_float(value: float) -> float:
    """The number as a float, where it is none too large to be one; its range is checked later."""
    try:
        return float(value)
    except OverflowError:
        return value


def _unknown(prefix: str, key: str, given: Any) -> str:
    """A key that nobody knows, and its value; neither where they may be a secret."""
    name = f"{prefix}{key}" if quoted(key) == repr(key) else f"{prefix}({quoted(key)})"
    return f"{name} = {'(not shown)' if is_secret_name(key) else _show(given)}"


def _show(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return quoted(value) if isinstance(value, str) else shown(value, longest=MAX_SHOWN)
