"""What a file may say, of a policy or of all settings, derived from the values of core.

Their fields, types and defaults are the schema; there is no second list of keys. Unknown keys, coercion
and NaN are refused at every level, parts with several kinds are told apart by `kind`, and the values check
themselves when they are built. This is the only package that knows pydantic.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache, partial, reduce
from operator import or_
from types import GenericAlias, NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import pydantic
from pydantic import AfterValidator, BeforeValidator, ConfigDict, TypeAdapter, WrapValidator
from pydantic_core import PydanticCustomError

from stormbreak.core.policy import Policy

Root = TypeVar("Root")

NONE = "none"
"""How a file says None: unbounded, or a part that is left out. TOML has no null."""

MAX_KEY = 40  # characters of a key that are shown

BARE = re.compile(r"[\w-]{1,40}", re.ASCII)
"""Keys that a TOML file needs not quote."""

_CONFIG = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Place(NamedTuple):
    """Where in a policy something is: its path, its type (None: unknown key), and the keys beside it."""

    path: str
    hint: Any
    keys: tuple[str, ...]


@cache
def reader(root: type[Root]) -> TypeAdapter[Root]:
    """What turns plain values into a `root`; built when first used."""
    return TypeAdapter(_checked(root))


def place_of(location: tuple[int | str, ...], root: type = Policy) -> Place:
    """Find the place that pydantic calls `location` (it also names the kind it has chosen on the way)."""
    path = ""
    hint: Any = root
    keys: tuple[str, ...] = ()
    for step in location:
        kinds, parts = variants_of(hint), parts_of(hint)
        if len(parts) > 1:
            hint = kinds[str(step)]
        elif parts:
            hints = get_type_hints(parts[0])
            path, hint, keys = join(path, str(step)), hints.get(str(step)), tuple(hints)
        elif get_origin(hint) is Mapping:
            path, hint = join(path, str(step)), get_args(hint)[1]
        else:
            path, hint = f"{path}[{step}]", get_args(hint)[0]
    return Place(path, hint, keys)


def parts_of(hint: Any) -> tuple[type, ...]:
    """The values of core that `hint` allows."""
    members = _members(hint)
    return tuple(part for part in members if isinstance(part, type) and is_dataclass(part))


def variants_of(hint: Any) -> dict[str, type]:
    """The same by `kind`, where they have one."""
    kinds = {part: get_type_hints(part).get("kind") for part in parts_of(hint)}
    return {get_args(kind)[0]: part for part, kind in kinds.items() if kind is not None}


def may_be_none(hint: Any) -> bool:
    """Whether a file may say "none" here."""
    return NoneType in _members(hint)


def words_of(hint: Any) -> tuple[str, ...]:
    """The words that `hint` allows, where it allows only certain words."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return tuple(toml_word(member) for member in hint)
    return get_args(hint) if get_origin(hint) is Literal else ()


def toml_word(member: Enum) -> str:
    """How a file calls a member of an enumeration."""
    return member.name.lower()


def join(path: str, key: str) -> str:
    """`path` with one more key, quoted and cut where it is none that anybody would write."""
    if not BARE.fullmatch(key):
        key = json.dumps(key[:MAX_KEY])
    return f"{path}.{key}" if path else key


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _checked(hint: Any) -> Any:
    """The type that pydantic is to check where core says `hint`."""
    if may_be_none(hint):
        return Annotated[_checked(_without_none(hint)) | None, BeforeValidator(_none)]
    if parts := parts_of(hint):
        together = reduce(or_, (_checked_part(part) for part in parts))
        return Annotated[together, pydantic.Field(discriminator="kind")] if parts[1:] else together
    if get_origin(hint) in (tuple, Mapping):
        return _checked_collection(hint)
    if hint is float:
        return Annotated[float, WrapValidator(_as_given)]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return Annotated[str, AfterValidator(partial(_member, hint))]
    return hint


def _checked_collection(hint: Any) -> Any:
    if get_origin(hint) is Mapping:
        return GenericAlias(dict, (str, _checked(get_args(hint)[1])))
    items = GenericAlias(tuple, (_checked(get_args(hint)[0]), ...))
    return Annotated[items, pydantic.Field(strict=False)]


def _without_none(hint: Any) -> Any:
    return reduce(or_, (member for member in _members(hint) if member is not NoneType))


def _checked_part(part: type) -> Any:
    return Annotated[_model(part), AfterValidator(partial(_build, part))]


def _model(part: type) -> Any:
    hints = get_type_hints(part)
    definitions: dict[str, Any] = {
        field.name: (_checked(hints[field.name]), _default(field)) for field in fields(part)
    }
    return pydantic.create_model(part.__name__, __config__=_CONFIG, **definitions)


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    assert field.default_factory is not MISSING, "every part of a policy has a default"
    return pydantic.Field(default_factory=field.default_factory)


def _build(part: type, model: pydantic.BaseModel) -> Any:
    return part(**dict(model))


def _none(value: Any) -> Any:
    return None if isinstance(value, str) and value == NONE else value


def _as_given(value: Any, check: Callable[[Any], float]) -> Any:
    """Accept what is a float or a whole number, and leave it as it was written."""
    check(value)
    return value


def _member(enumeration: type[Enum], word: str) -> Enum:
    for member in enumeration:
        if toml_word(member) == word:
            return member
    raise PydanticCustomError("word", "not one of the words")
