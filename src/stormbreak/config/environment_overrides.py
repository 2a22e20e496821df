"""Overrides of a settings file: one of its profiles, and environment variables.

`STORMBREAK__TARGETS__MAIN__MODEL=gpt-4.1` means `targets.main.model = "gpt-4.1"`. Names ignore case, and `_` also
matches `-`. A value is parsed as TOML, else used as text.
"""

import tomllib
from collections.abc import Iterator, Mapping
from functools import reduce
from types import MappingProxyType
from typing import Any

from stormbreak.config import literal_keys
from stormbreak.errors import ConfigurationError, errors_at
from stormbreak.hidden_keys import has_key_prefix, quoted
from stormbreak.toml_reader import MAX_DEPTH, UNKNOWN, Table, check_depth, join

PREFIX = "STORMBREAK__"
PROFILE = "STORMBREAK_PROFILE"
EMPTY: Mapping[str, Any] = MappingProxyType({})


class Overrides:
    """A table and the source of each of its values, for messages."""

    def __init__(self, table: Table) -> None:
        self.table = table
        # By path: the prefix of messages, and the path there.
        self._from: dict[str, tuple[str, str]] = {}

    def apply_profile(self, name: str, profile: object) -> None:
        where = join("profiles", name)
        if not isinstance(profile, dict):
            raise ConfigurationError(f"{where} must be a table")
        self.table = overlay(self.table, profile)
        self._from |= {path: ("", f"{where}.{path}") for path in _paths(profile)}

    def apply_environment(self, environ: Mapping[str, str]) -> None:
        """Apply all environment variables together, so that a `kind` does not remove a value of another variable."""
        together: Table = {}
        for variable in sorted(name for name in environ if name.startswith(PREFIX)):
            value = _value(variable, environ[variable])
            over: Any = value
            path = _keys(variable, self.table)
            for key in reversed(path):
                over = {key: over}
            with errors_at(variable):
                check_depth(over)
                literal_keys.refuse(over)
            together = overlay(together, over)
            made = _made_by(path, self.table)
            self._from |= {where: (f"{variable}: ", where) for where in made}
        self.table = overlay(self.table, together)

    def with_source(self, message: str) -> str:
        """Return the error message with the source of the value."""
        head = UNKNOWN if message.startswith(UNKNOWN) else ""
        rest = message.removeprefix(head)
        path = max((path for path in self._from if _begins(rest, path)), key=len, default=None)
        if path is None:
            return message
        source, there = self._from[path]
        return f"{source}{head}{there}{rest[len(path) :]}"


def overlay(
    base: Mapping[str, Any], over: Mapping[str, Any], fresh: Mapping[str, Any] = EMPTY
) -> Table:
    """Return `base` changed by `over`.

    A table in `over` changes the table of that name and keeps its other keys, unless it names another `kind`: then it
    starts from the defaults of that kind. If `base` has no such table, it starts from `fresh`.
    """
    merged = dict(base)
    for key, value in over.items():
        below, unused = base.get(key), fresh.get(key)
        if key == "policy" and isinstance(below, str):
            below = {"preset": below}  # short form
        start = below if isinstance(below, dict) else unused
        if isinstance(value, dict) and isinstance(start, dict) and _same_kind(start, value):
            merged[key] = overlay(start, value, unused if isinstance(unused, dict) else EMPTY)
        else:
            merged[key] = value
    return merged


def _same_kind(below: Mapping[str, Any], over: Mapping[str, Any]) -> bool:
    return "kind" not in over or over["kind"] == below.get("kind", over["kind"])


def _keys(variable: str, table: Mapping[str, Any]) -> list[str]:
    words = variable.removeprefix(PREFIX).split("__")
    if len(words) > MAX_DEPTH:
        raise ConfigurationError(f"{quoted(variable)} names a key of more than {MAX_DEPTH} parts")
    if not all(words):
        raise ConfigurationError(
            f"{quoted(variable)} does not name a key: write two _ between keys"
        )
    keys = []
    below: Any = table
    for word in words:
        here = below if isinstance(below, dict) else {}
        key = next((key for key in here if _folded(key) == _folded(word)), word.lower())
        keys.append(key)
        below = here.get(key)
    return keys


def _made_by(path: list[str], table: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths that a value at `path` creates, its own last."""
    below: Any = table
    for depth, key in enumerate(path, 1):
        below = below.get(key) if isinstance(below, dict) else None
        if depth == len(path) or not isinstance(below, dict):
            yield reduce(join, path[:depth], "")


def _folded(key: str) -> str:
    return key.lower().replace("-", "_")


def _value(variable: str, text: str) -> Any:
    if has_key_prefix(text):
        raise ConfigurationError(f"{variable} looks like it contains an API key")
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return table["value"] if len(table) == 1 else text


def _paths(table: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in table.items():
        here = join(path, key)
        yield here
        if isinstance(value, dict):
            yield from _paths(value, here)


def _begins(message: str, path: str) -> bool:
    return message.startswith(path) and message[len(path) : len(path) + 1] in ("", " ", ".", "[")
