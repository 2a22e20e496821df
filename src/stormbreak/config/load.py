"""Read policy and settings files, on top of a preset.

A settings file is a policy with targets, pools and profiles, and optionally a gateway with its keys. If the `policy` of
a target is a table, it changes the file's policy, or the `preset` that it names; if it is a text, it is the name of a
preset.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from stormbreak import file_reader, toml_reader
from stormbreak.config import literal_keys
from stormbreak.config.environment_overrides import PROFILE, Overrides, overlay
from stormbreak.config.settings import Settings
from stormbreak.config.write_policy import plain
from stormbreak.core.policy import Policy
from stormbreak.core.presets import PRESETS
from stormbreak.errors import ConfigurationError, errors_at
from stormbreak.hidden_keys import has_key_prefix, hidden, looks_like_key, quoted
from stormbreak.toml_reader import BARE, Table, join, must, one_of

T = TypeVar("T")

SETTINGS = "a settings file"  # its name in messages


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Read the policy in a TOML file. Raises ConfigurationError: one line that names the file, the key and the value."""
    with errors_at(hidden(str(path))):
        table = _table(path, "a policy")
        _refuse_settings(table)
        return _policy(table)


def load_settings(
    path: str | os.PathLike[str],
    *,
    profile: str | None = None,
    environ: Mapping[str, str] = os.environ,
    text: str | None = None,
) -> Settings:
    """Read the settings in a TOML file, with one of its profiles (by default STORMBREAK_PROFILE).

    `text` is the content of the file; None: read it. Raises ConfigurationError: one line that names the file, the key
    or the variable, and the value.
    """
    with errors_at(hidden(str(path))):
        table = _table(path, SETTINGS, text)
        profiles = _profiles(table)
        table.pop("profiles", None)
        layers = Overrides(table)
        chosen = profile or environ.get(PROFILE)
        if chosen:
            layers.apply_profile(chosen, _chosen(chosen, profiles, by_variable=not profile))
        layers.apply_environment(environ)
        try:
            return _settings(layers.table)
        except ConfigurationError as error:
            raise ConfigurationError(layers.with_source(str(error))) from None


def resolve_policy(name_or_path: str) -> Policy:
    """Return a preset by name, or the policy in a file.

    Raises ConfigurationError if there is neither, or the file is invalid.
    """
    return resolve_preset(name_or_path) or load_policy(name_or_path)


def resolve_settings(name_or_path: str, *, profile: str | None = None) -> Settings:
    """Return a preset by name, as settings without targets, or the settings in a file.

    Raises ConfigurationError if there is neither, or the file is invalid.
    """
    preset = resolve_preset(name_or_path)
    if preset is not None:
        return Settings(policy=preset)
    return load_settings(name_or_path, profile=profile)


def names_targets(name_or_path: str) -> bool:
    """Whether it is a file with targets, rather than a preset or a policy alone; raise ConfigurationError as `resolve_settings` does."""
    if resolve_preset(name_or_path) is not None:
        return False
    with errors_at(hidden(name_or_path)):
        return "targets" in _table(name_or_path, SETTINGS)


def profiles_in(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the names of the profiles in a settings file."""
    with errors_at(hidden(str(path))):
        return tuple(_profiles(_table(path, SETTINGS)))


def _table(path: str | os.PathLike[str], what: str, text: str | None = None) -> Table:
    if text is None:
        text = file_reader.read_text(path, what=what)
    table = toml_reader.parse(text, what=what)
    literal_keys.refuse(table)
    return table


def _refuse_settings(table: Table) -> None:
    beyond = [key for key in table if key in (*literal_keys.NAMING, "gateway", "prices")]
    if beyond:
        raise ConfigurationError(f"expected only a policy, without {' and '.join(beyond)}")


def resolve_preset(name_or_path: str) -> Policy | None:
    """Return a preset by name; None if it is the name of a file."""
    if name_or_path in PRESETS:
        return PRESETS[name_or_path]
    looks_like_a_file = "/" in name_or_path or name_or_path.endswith(".toml")
    exists = os.path.exists(name_or_path)  # noqa: PTH110 - Path raises for odd names
    # a path may look like a token
    is_key = has_key_prefix if looks_like_a_file else looks_like_key
    if not exists and is_key(name_or_path):
        raise ConfigurationError(
            "the policy looks like a key, not like the name of a preset or a file"
        )
    if looks_like_a_file or exists:
        return None
    known = ", ".join(PRESETS)
    raise ConfigurationError(f"{quoted(name_or_path)} is neither a preset ({known}) nor a file")


def _profiles(table: Table) -> Table:
    profiles = table.get("profiles", {})
    if not isinstance(profiles, dict):
        raise must("profiles", "a table", profiles)
    return profiles


def _chosen(name: str, profiles: Table, *, by_variable: bool) -> object:
    if name not in profiles:
        what = PROFILE if by_variable else "the profile"
        known = ", ".join(profiles) or "there is none"
        raise ConfigurationError(
            f"{what} must be one of its profiles ({known}), got {quoted(name)}"
        )
    return profiles[name]


def _read(kind: type[T], table: Table) -> T:
    return toml_reader.read(kind, table, none=True, also={Policy: ("preset",)})


def _policy(table: Table) -> Policy:
    """Convert a table to a policy; removes its preset."""
    base = _preset(table.pop("preset", "interactive"), "preset")
    return _read(Policy, overlay(plain(base), table, plain(Policy())))


def _preset(name: object, path: str) -> Policy:
    if isinstance(name, str) and name in PRESETS:
        return PRESETS[name]
    raise must(path, one_of(PRESETS), name)


def _settings(table: Table) -> Settings:
    named = {key: table.pop(key, {}) for key in ("targets", "pools", "keys", "tenants")}
    for kind, tables in named.items():
        for name in tables if isinstance(tables, dict) else ():
            if not BARE.fullmatch(name):
                raise ConfigurationError(
                    f"{join(kind, name)} must have a name of letters, digits, - and _, 40 at most"
                )
    gateway, prices = table.pop("gateway", {}), table.pop("prices", [])
    policy = _policy(table)
    whole = {
        "policy": plain(policy),
        "targets": _each(named["targets"], lambda name, one: _target(name, one, policy)),
        "pools": _each(named["pools"], _pool),
        "gateway": gateway,
        "keys": named["keys"],
        "tenants": named["tenants"],
        "prices": prices,
    }
    return _read(Settings, whole)


def _each(tables: Any, prepare: Callable[[str, Table], Table]) -> Any:
    """Prepare each table for conversion; other values are rejected later."""
    if not isinstance(tables, dict):
        return tables
    return {
        name: prepare(name, dict(one)) if isinstance(one, dict) else one
        for name, one in tables.items()
    }


def _target(name: str, table: Table, policy: Policy) -> Table:
    """Convert the policy of a target; its fleet is that of the file, even with its own preset."""
    path, own = f"targets.{name}.policy", table.get("policy", {})
    if isinstance(own, str):
        table["policy"] = plain(replace(_preset(own, path), fleet=policy.fleet))
    elif isinstance(own, dict):
        own = dict(own)
        if "preset" in own:
            preset = _preset(own.pop("preset"), f"{path}.preset")
            policy = replace(preset, fleet=policy.fleet)
        table["policy"] = overlay(plain(policy), own, plain(Policy()))
    return table


def _pool(_name: str, table: Table) -> Table:
    members = table.get("targets")
    if isinstance(members, list):
        table["targets"] = [{"target": one} if isinstance(one, str) else one for one in members]
    return table
