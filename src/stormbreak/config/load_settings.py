"""Reading a settings file: a policy, and beside it targets, pools and profiles.

A policy file is one without targets. Where a target has a table as its `policy`, that is laid over the file's own policy, or
over the `preset` that it names; a word is the name of a preset.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from stormbreak import toml_file
from stormbreak.config import literal_keys, mistakes
from stormbreak.config.load import base_of, overlay, policy_in, resolve_preset
from stormbreak.config.policy_toml import plain
from stormbreak.config.profiles import PROFILE, Overrides
from stormbreak.config.schema import BARE, join, reader
from stormbreak.config.settings import Settings
from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError
from stormbreak.key_patterns import hidden, quoted
from stormbreak.toml_file import Table

_WHAT = "a settings file"


def load_settings(
    path: str | os.PathLike[str],
    *,
    profile: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Read the settings in a TOML file, with a `profile` of it (STORMBREAK_PROFILE says which, if nothing else does).

    Raises:
        ConfigurationError: one line that names the file, the key or the variable, and the value.
    """
    try:
        table = _table(path)
        profiles = _profiles(table)
        table.pop("profiles", None)
        layers = Overrides(table)
        chosen = profile or environ.get(PROFILE)
        if chosen:
            layers.lay_profile(chosen, _chosen(chosen, profiles, by_variable=not profile))
        layers.lay_environment(environ)
        try:
            return _settings(layers.table)
        except ConfigurationError as error:
            raise ConfigurationError(layers.placed(str(error))) from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{hidden(str(path))}: {error}") from None


def resolve_settings(name_or_path: str, *, profile: str | None = None) -> Settings:
    """The preset of that name, as settings without targets; else the settings in the file of that name.

    Raises:
        ConfigurationError: there is neither, or the file is wrong.
    """
    preset = resolve_preset(name_or_path)
    if preset is not None:
        return Settings(policy=preset)
    return load_settings(name_or_path, profile=profile)


def profiles_in(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of the profiles of a file."""
    try:
        return tuple(_profiles(_table(path)))
    except ConfigurationError as error:
        raise ConfigurationError(f"{hidden(str(path))}: {error}") from None


def _table(path: str | os.PathLike[str]) -> Table:
    table = toml_file.parse(toml_file.read_text(path, what=_WHAT), what=_WHAT)
    literal_keys.refuse(table)
    return table


def _profiles(table: Table) -> Table:
    profiles = table.get("profiles", {})
    if not isinstance(profiles, dict):
        raise ConfigurationError(mistakes.must("profiles", "a table", profiles))
    return profiles


def _chosen(name: str, profiles: Table, *, by_variable: bool) -> object:
    if name not in profiles:
        what = PROFILE if by_variable else "the profile"
        known = ", ".join(profiles) or "there is none"
        raise ConfigurationError(
            f"{what} must be one of its profiles ({known}), got {quoted(name)}"
        )
    return profiles[name]


def _settings(table: Table) -> Settings:
    named = {key: table.pop(key, {}) for key in ("targets", "pools")}
    _check_names(named)
    policy = policy_in(table)
    whole = {
        "policy": plain(policy),
        "targets": _each(named["targets"], lambda name, one: _target(name, one, policy)),
        "pools": _each(named["pools"], _pool),
    }
    try:
        settings: Settings = reader(Settings).validate_python(whole)
    except ValidationError as error:
        raise ConfigurationError(mistakes.line_for(error, Settings)) from None
    return settings


def _check_names(named: Mapping[str, Any]) -> None:
    for kind, tables in named.items():
        for name in tables if isinstance(tables, dict) else ():
            if not BARE.fullmatch(name):
                raise ConfigurationError(
                    f"{join(kind, name)} must have a name of letters, digits, - and _, 40 at most"
                )


def _each(tables: Any, read: Callable[[str, Table], Table]) -> Any:
    """Make of each table what the schema wants to see; what is no table is for the schema to refuse."""
    if not isinstance(tables, dict):
        return tables
    return {
        name: read(name, dict(one)) if isinstance(one, dict) else one
        for name, one in tables.items()
    }


def _target(name: str, table: Table, policy: Policy) -> Table:
    path, own = f"targets.{name}.policy", table.get("policy", {})
    if isinstance(own, str):
        table["policy"] = plain(base_of(own, path))
    elif isinstance(own, dict):
        own = dict(own)
        if "preset" in own:
            policy = base_of(own.pop("preset"), f"{path}.preset")
        table["policy"] = overlay(plain(policy), own, plain(Policy()))
    return table


def _pool(_name: str, table: Table) -> Table:
    members = table.get("targets")
    if isinstance(members, list):
        table["targets"] = [{"target": one} if isinstance(one, str) else one for one in members]
    return table
