"""Scenarios from files: TOML in, checked values out, or one line that names the file, the key and the value."""

import os
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from importlib.resources import files
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from stormbreak import tomlfile
from stormbreak.core.checks import shown
from stormbreak.errors import ConfigurationError
from stormbreak.keylike import names_secret, quoted
from stormbreak.provider.bounds import LONGEST_SHOWN
from stormbreak.provider.scenario import Scenario

_WHAT = "a scenario"
_MOST_ITEMS = 1000  # of a list: the machines look through them all


def builtin_names() -> list[str]:
    """List the scenarios that come with the package."""
    folder = files("stormbreak.provider") / "scenarios"
    return sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".toml"))


def load(name_or_path: str | Path) -> Scenario:
    """Find a scenario by its name, or read it from a file."""
    name = str(name_or_path)
    source = f"{name}.toml" if name in builtin_names() else name
    return parse(text_of(name_or_path), source=source)


def text_of(name_or_path: str | Path) -> str:
    """The TOML of a scenario, by its name or from a file; not looked at yet."""
    name = str(name_or_path)
    if name in builtin_names():
        return (files("stormbreak.provider") / "scenarios" / f"{name}.toml").read_text("utf-8")
    if not os.path.isfile(name):  # noqa: PTH113 - Path raises for odd names
        known = ", ".join(builtin_names())
        raise ConfigurationError(
            f"no scenario and no file is called {quoted(name)}; there are: {known}"
        )
    try:
        return tomlfile.read_text(name, what=_WHAT)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from None


def parse(text: str, *, source: str = "scenario.toml") -> Scenario:
    """Read a scenario from TOML; `source` names it in messages, and gives it a name if it has none."""
    try:
        table = tomlfile.parse(text, what=_WHAT)
        table.setdefault("name", Path(source).stem)
        scenario = _read(Scenario, table, "")
    except ConfigurationError as error:
        raise ConfigurationError(f"{source}: {error}") from None
    assert isinstance(scenario, Scenario)
    return scenario


def _read(hint: Any, value: Any, path: str) -> Any:
    """Turn a TOML value into what the type asks for."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _read(parts[0], value, path)
    if origin in {Union, UnionType}:
        return _read(next(part for part in parts if part is not NoneType), value, path)
    if origin is tuple:
        _expect(isinstance(value, list), "a list", value, path)
        _expect(len(value) <= _MOST_ITEMS, f"at most {_MOST_ITEMS} items", len(value), path)
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
        raise ConfigurationError(f"{path} lacks {', '.join(missing)}, got {_show(value)}")
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
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    words = {int: "a whole number", bool: "true or false", str: "a string"}
    _expect(fits, words[kind], value, path)
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
    return f"{name} = {'(not shown)' if names_secret(key) else _show(given)}"


def _show(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return quoted(value) if isinstance(value, str) else shown(value, longest=LONGEST_SHOWN)
