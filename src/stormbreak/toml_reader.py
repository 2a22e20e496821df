"""Read TOML: parse a text, and convert its tables to dataclasses.

Errors do not name the file: callers prepend it. A text that contains an API key is rejected, and the key is never
repeated, since such files are shared.

The fields of the dataclasses, their types and defaults are the schema. Unknown keys, wrong types and NaN are rejected
at every level with one line: the path of the key, the required and the given value. For a union of dataclasses, `kind`
selects one. Dataclasses check ranges themselves; their messages get the path of their table.
"""

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from difflib import get_close_matches
from enum import Enum
from functools import cache
from math import isfinite
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from stormbreak.core.checks import shown
from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import (
    has_key_prefix,
    holds_token,
    is_secret_name,
    looks_like_key,
    quoted,
)

T = TypeVar("T")
Table = dict[str, Any]

NONE = "none"
"""None in a policy file: unbounded, or a part that is left out. TOML has no null."""

BARE = re.compile(r"[\w-]{1,40}", re.ASCII)  # keys that need no quotes in TOML
MAX_SHOWN = 40  # characters of a key or of the digits of a number
MAX_ITEMS = 1000  # maximum items of a list
MAX_DEPTH = 32  # nested tables and lists
_WANTED = {int: "a whole number", bool: "true or false", str: "a string", Decimal: "a number"}

UNKNOWN = "unknown key "  # the start of messages about unknown keys; all others begin with the path

# ---------------------------------------------------------------- text


def parse(text: str, *, what: str, parse_float: Callable[[str], Any] = float) -> Table:
    """Parse TOML; `parse_float` converts fractions."""
    _refuse_familiar(text, what)
    try:
        table = tomllib.loads(text, parse_float=parse_float)
    except tomllib.TOMLDecodeError as error:
        reason = "a key that looks like a secret" if holds_token(str(error)) else error
        raise ConfigurationError(f"invalid TOML: {reason}") from None
    except ValueError:  # Python refuses to read an integer of thousands of digits
        raise ConfigurationError("a number is too long") from None
    except RecursionError:
        raise ConfigurationError("nested too deeply") from None
    check_depth(table)
    return table


def check_depth(table: Table) -> None:
    """Reject a table that is nested too deeply for recursion; each part of a dotted key is a table."""
    level: list[tuple[str, object]] = [*table.items()]
    for _ in range(MAX_DEPTH):
        level = [(top, inner) for top, value in level for inner in _inside(value)]
        if not level:
            return
    top = quoted(level[0][0])
    raise ConfigurationError(f"{top} is nested too deeply: more than {MAX_DEPTH} levels")


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _refuse_familiar(text: str, what: str) -> None:
    """Reject a text with an API key in any line, comments included."""
    for number, line in enumerate(text.splitlines(), 1):
        if has_key_prefix(line):
            raise ConfigurationError(
                f"line {number} looks like it contains an API key; {what} must not contain keys,"
                " use environment variables"
            )


# ---------------------------------------------------------------- messages


def join(path: str, key: str) -> str:
    """Append a key to `path`, quoted and shortened if it is unusual."""
    if not BARE.fullmatch(key):
        key = json.dumps(key[:MAX_SHOWN])
    return f"{path}.{key}" if path else key


def must(path: str, wanted: str, given: Any) -> ConfigurationError:
    """Make the error of a wrong value, with the required and the given one."""
    return ConfigurationError(f"{path} must be {wanted}, got {show(given)}")


def show(value: Any) -> str:
    """Format a value for a message: shortened, and without text that looks like a key."""
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return str(value).lower()
    return quoted(value) if isinstance(value, str) else shown(value, longest=MAX_SHOWN)


def one_of(words: Iterable[str]) -> str:
    return f"one of {', '.join(words)}"


def _unknown(path: str, key: str, given: Any, known: Iterable[str]) -> ConfigurationError:
    nearest = get_close_matches(key, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(known)}"
    name = join(path, key)
    if looks_like_key(key):
        name = f"{path}.({quoted(key)})" if path else f"({quoted(key)})"
    value = "(not shown)" if is_secret_name(key) else show(given)
    return ConfigurationError(f"{UNKNOWN}{name} = {value}; {hint}")


# ---------------------------------------------------------------- types


def word_of(member: Enum) -> str:
    """Return the name of an enumeration's member in files."""
    return member.value if isinstance(member.value, str) else member.name.lower()


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _kinds(parts: Iterable[type]) -> dict[str, type]:
    return {kind: part for part in parts for kind in get_args(_hints(part).get("kind"))}


def _is_needed(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


# ---------------------------------------------------------------- reading


def read(
    kind: type[T],
    table: Table,
    *,
    none: bool = False,
    also: Mapping[type, tuple[str, ...]] | None = None,
) -> T:
    """Convert the table to a `kind`, a dataclass.

    With `none`, the word "none" means None wherever a type allows it. `also` are further keys by class, which the
    caller has removed; messages about unknown keys list them.

    Raises:
        ConfigurationError: one line that names the key and the value.
    """
    value = _Reader(none, also or {}).read(kind, table, "")
    assert isinstance(value, kind)
    return value


class _Reader:
    def __init__(self, none: bool, also: Mapping[type, tuple[str, ...]]) -> None:  # noqa: FBT001
        self._none = none
        self._also = also

    def read(self, hint: Any, value: Any, path: str) -> Any:
        """Convert a TOML value to the type."""
        origin, inner = get_origin(hint), get_args(hint)
        if origin is Annotated:
            made = self.read(inner[0], value, path)
            made = float(made) if inner[0] is float else made  # its Range is of floats
        elif origin in (Union, UnionType):
            made = self._read_union(hint, value, path)
        elif origin is tuple:
            made = self._read_list(inner[0], value, path)
        elif origin is Mapping:
            _expect(isinstance(value, dict), "a table", value, path)
            made = {key: self.read(inner[1], item, join(path, key)) for key, item in value.items()}
        elif hint is Any:
            made = value
        elif origin is Literal:
            made = _choose({word: word for word in inner}, value, path)
        elif is_dataclass(hint):
            made = self._read_table(hint, value, path)
        elif issubclass(hint, Enum):
            made = _choose({word_of(member): member for member in hint}, value, path)
        else:
            made = _read_plain(hint, value, path)
        return made

    def _read_union(self, hint: Any, value: Any, path: str) -> Any:
        members = [member for member in get_args(hint) if member is not NoneType]
        optional = self._none and NoneType in get_args(hint)
        if optional and value == NONE and isinstance(value, str):
            return None
        try:
            words = [member for member in members if get_origin(member) is Literal]
            if isinstance(value, str) and words:
                return self.read(words[0], value, path)
            members = [member for member in members if member not in words] or words
            if len(members) == 1:
                return self.read(members[0], value, path)
            return self._read_table(self._choose_kind(members, value, path), value, path)
        except _WrongTypeError as error:
            if not optional or error.path != path:
                raise
            raise _wrong_type(path, f'{error.wanted} or "{NONE}"', value) from None

    def _choose_kind(self, members: list[type], value: Any, path: str) -> type:
        kinds = _kinds(members)
        if isinstance(value, str) and value in kinds:
            raise _wrong_type(path, f'a table with kind = "{value}"', value)
        _expect(isinstance(value, dict), "a table", value, path)
        if "kind" not in value:
            raise ConfigurationError(f"{path} lacks kind: {one_of(kinds)}")
        return kinds[_choose({kind: kind for kind in kinds}, value["kind"], join(path, "kind"))]

    def _read_list(self, hint: Any, value: Any, path: str) -> tuple[Any, ...]:
        _expect(isinstance(value, list), "a list", value, path)
        _expect(len(value) <= MAX_ITEMS, f"at most {MAX_ITEMS} items", len(value), path)
        return tuple(self.read(hint, item, f"{path}[{place}]") for place, item in enumerate(value))

    def _read_table(self, kind: Any, value: Any, path: str) -> Any:
        kinds = _kinds([kind])
        if isinstance(value, str) and value in kinds:
            raise _wrong_type(path, f'a table with kind = "{value}"', value)
        _expect(isinstance(value, dict), "a table", value, path)
        items = fields(kind)
        names = (*self._also.get(kind, ()), *(item.name for item in items))
        for key, given in value.items():
            if key not in names:
                raise _unknown(path, key, given, names)
        hints = _hints(kind)
        made = {key: self.read(hints[key], item, join(path, key)) for key, item in value.items()}
        missing = [item.name for item in items if _is_needed(item) and item.name not in made]
        if missing:
            lacks = f"{path} lacks" if path else "lacks"
            raise ConfigurationError(f"{lacks} {', '.join(missing)}, got {show(value)}")
        try:
            return kind(**made)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}.{error}" if path else str(error)) from None


class _WrongTypeError(ConfigurationError):
    """Make the error of a wrong type; it mentions "none" if None is allowed."""

    path = wanted = ""


def _wrong_type(path: str, wanted: str, given: Any) -> _WrongTypeError:
    error = _WrongTypeError(str(must(path, wanted, given)))
    error.path, error.wanted = path, wanted
    return error


def _read_plain(kind: type, value: Any, path: str) -> Any:
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        _expect(number, "a number", value, path)
        try:
            _expect(isfinite(value), "a finite number", value, path)
        except OverflowError:
            raise _wrong_type(path, "a number below 1e308", value) from None
        return value
    if kind is Decimal:
        number = isinstance(value, int | Decimal) and not isinstance(value, bool)
        _expect(number, "a number", value, path)
        return Decimal(value)
    if kind is date:
        day = isinstance(value, date) and not isinstance(value, datetime)
        _expect(day, "a date such as 2025-11-11", value, path)
        return value
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    _expect(fits, _WANTED[kind], value, path)
    return value


def _choose(choices: dict[Any, Any], value: Any, path: str) -> Any:
    _expect(isinstance(value, str) and value in choices, one_of(choices), value, path)
    return choices[value]


def _expect(fits: bool, wanted: str, value: Any, path: str) -> None:  # noqa: FBT001
    if not fits:
        raise _wrong_type(path, wanted, value)
