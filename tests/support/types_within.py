"""The dataclasses in a type."""

from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin


def parts_of(hint: Any) -> tuple[type, ...]:
    """Return the dataclasses in a type, or a union of types."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(each for each in members if isinstance(each, type) and is_dataclass(each))
