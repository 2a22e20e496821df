"""A policy in the plain values that a TOML file has."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from stormbreak.config.schema import NONE, toml_word


def plain(value: Any) -> Any:
    """Tables for parts and mappings, lists for tuples, words for members of an enumeration, "none" for None."""
    if value is None:
        return NONE
    if isinstance(value, Enum):
        return toml_word(value)
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value
