"""One line for a mistake in a file: the path of the key, what it must be, and what it is."""

import json
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from stormbreak.config.schema import NONE, Place, join, may_be_none, place_of, variants_of, words_of
from stormbreak.core import checks
from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError

LONGEST = 40  # characters of a value that are shown

_KINDS = {"targets": "a target", "pools": "a pool"}
_WANTED = {
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "a word",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}


def line_for(error: ValidationError, root: type = Policy) -> str:
    """Tell the first of the mistakes in a `root`; the others are told when that one is mended."""
    first = error.errors(include_url=False)[0]
    place = place_of(first["loc"], root)
    kind = first["type"]
    if kind == "extra_forbidden":
        whole = "deadline" in place.keys  # a policy may begin with a preset
        known = ("preset", *place.keys) if whole else place.keys
        return unknown(place.path, str(first["loc"][-1]), known, _owner(place.path, root))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        given = first["input"].get("kind", "nothing")
        return must(join(place.path, "kind"), one_of(variants_of(place.hint)), given)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigurationError):  # a value of core has refused itself
        return f"{place.path}.{cause}" if place.path else str(cause)
    return must(place.path, _wanted(first, place), first["input"])


def unknown(path: str, key: str, known: Iterable[str], what: str = "a policy") -> str:
    """Say that `what` has no such key, and which was perhaps meant."""
    nearest = get_close_matches(key, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known here: {', '.join(known)}"
    return f"{path} is no key of {what}; {hint}"


def must(path: str, wanted: str, given: Any) -> str:
    """Say what a value must be, and what it is."""
    return f"{path} must be {wanted}, got {shown(given)}"


def one_of(words: Iterable[str]) -> str:
    """List the words that are allowed."""
    *others, last = words
    return f"one of {', '.join(others)}, {last}" if others else last


def shown(value: Any) -> str:
    """A value as a TOML file would have it, without control characters, and not at length."""
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    write = json.dumps if isinstance(value, str | bool) else str
    return checks.shown(value, longest=LONGEST, write=write)


def _owner(path: str, root: type) -> str:
    if root is Policy or ".policy." in path:
        return "a policy"
    return _KINDS[path.partition(".")[0]]


def _wanted(error: ErrorDetails, place: Place) -> str:
    if error["type"] in _WANTED:
        wanted = _WANTED[error["type"]]
    elif words := words_of(place.hint):
        wanted = one_of(words)
    else:
        wanted = error["msg"]
    if isinstance(error["input"], str) and error["input"] in variants_of(place.hint):
        wanted = f'{wanted} with kind = "{error["input"]}"'
    return f'{wanted} or "{NONE}"' if may_be_none(place.hint) else wanted
