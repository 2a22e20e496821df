"""Reading a policy file, on top of a preset."""

import os
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from stormbreak import toml_file
from stormbreak.config import literal_keys, mistakes
from stormbreak.config.policy_toml import plain
from stormbreak.config.schema import reader
from stormbreak.core.policy import Policy
from stormbreak.core.presets import PRESETS
from stormbreak.errors import ConfigurationError
from stormbreak.key_patterns import has_key_prefix, hidden, looks_like_key
from stormbreak.toml_file import Table

_WHAT = "a policy"


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Read the policy in a TOML file.

    Raises:
        ConfigurationError: one line that names the file, the key and the value.
    """
    try:
        table = toml_file.parse(toml_file.read_text(path, what=_WHAT), what=_WHAT)
        literal_keys.refuse(table)
        _refuse_settings(table)
        return policy_in(table)
    except ConfigurationError as error:
        raise ConfigurationError(f"{hidden(str(path))}: {error}") from None


def resolve_policy(name_or_path: str) -> Policy:
    """The preset of that name; else the policy in the file of that name.

    Raises:
        ConfigurationError: there is neither, or the file is wrong.
    """
    return resolve_preset(name_or_path) or load_policy(name_or_path)


def resolve_preset(name_or_path: str) -> Policy | None:
    """The preset of that name, None where it is that of a file.

    Raises:
        ConfigurationError: there is neither.
    """
    if name_or_path in PRESETS:
        return PRESETS[name_or_path]
    looks_like_a_file = "/" in name_or_path or name_or_path.endswith(".toml")
    exists = os.path.exists(name_or_path)  # noqa: PTH110 - Path raises for odd names
    is_key = (
        has_key_prefix if looks_like_a_file else looks_like_key
    )  # a path may well look like a token
    if not exists and is_key(name_or_path):
        raise ConfigurationError(
            "the policy looks like a key, not like the name of a preset or a file"
        )
    if looks_like_a_file or exists:
        return None
    name, known = mistakes.shown(name_or_path), ", ".join(PRESETS)
    raise ConfigurationError(f"{name} is neither a preset ({known}) nor a file")


def _refuse_settings(table: Table) -> None:
    """A file that is right as settings is told what is too much of it, and not that it is wrong."""
    beyond = [key for key in table if key in literal_keys.NAMING]
    if beyond:
        raise ConfigurationError(f"a policy alone is taken here, without {' and '.join(beyond)}")


def policy_in(table: Table) -> Policy:
    """The policy that a table says, which is used up by that."""
    base = base_of(table.pop("preset", "interactive"))
    try:
        policy: Policy = reader(Policy).validate_python(
            overlay(plain(base), table, plain(Policy()))
        )
    except ValidationError as error:
        raise ConfigurationError(mistakes.line_for(error)) from None
    return policy


def base_of(preset: object, path: str = "preset") -> Policy:
    """The preset of that name, which stands at `path`."""
    if isinstance(preset, str) and preset in PRESETS:
        return PRESETS[preset]
    raise ConfigurationError(mistakes.must(path, mistakes.one_of(PRESETS), preset))


def overlay(base: Mapping[str, Any], over: Table, fresh: Mapping[str, Any]) -> Table:
    """`base` with what `over` says.

    A table in `over` changes the table of that name and keeps the rest of it, unless it names another `kind`:
    that starts from the kind's own defaults. Where `base` has no such table, it starts from `fresh`.
    """
    merged = dict(base)
    for key, value in over.items():
        below, unused = (side.get(key) for side in (base, fresh))
        start = below if isinstance(below, dict) else unused
        if isinstance(value, dict) and isinstance(start, dict) and _same_kind(start, value):
            merged[key] = overlay(start, value, unused if isinstance(unused, dict) else {})
        else:
            merged[key] = value
    return merged


def _same_kind(below: Table, over: Table) -> bool:
    return "kind" not in over or over["kind"] == below.get("kind")
