"""Scenarios and files: TOML in, checked values out, or one line that names the file, the key and the value; and back."""

import os
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from enum import Enum
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomli_w

from stormbreak import toml_file, toml_values
from stormbreak.errors import ConfigurationError
from stormbreak.key_patterns import quoted
from stormbreak.provider.scenario import Scenario

_WHAT = "a scenario"


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
        known = builtin_names()
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigurationError(
            f"no scenario and no file is called {quoted(name)}; {hint}there are: {', '.join(known)}"
        )
    try:
        return toml_file.read_text(name, what=_WHAT)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from None


def parse(text: str, *, source: str = "scenario.toml") -> Scenario:
    """Read a scenario from TOML; `source` names it in messages, and gives it a name if it has none."""
    try:
        table = toml_file.parse(text, what=_WHAT)
        table.setdefault("name", Path(source).stem)
        return toml_values.read(Scenario, table)
    except ConfigurationError as error:
        raise ConfigurationError(f"{source}: {error}") from None


def dump(scenario: Scenario) -> str:
    """Write a scenario as TOML that `parse` reads back; what is as by default is left out."""
    return tomli_w.dumps(_plain(scenario))


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return {
            item.name: _plain(given)
            for item in fields(value)
            if (given := getattr(value, item.name)) != item.default and given is not None
        }
    return value
