"""Policies and settings from presets and TOML files, with errors that name the key and the value.

`load_policy` reads a policy, `load_settings` a policy with targets and pools; `resolve_policy` and `resolve_settings`
also take the name of a preset. `describe` and `describe_settings` write a file that reads back to the same values. A
file is data: nothing in it is evaluated, imported or run.
"""

from stormbreak.config.load import (
    load_policy,
    load_settings,
    profiles_in,
    resolve_policy,
    resolve_settings,
)
from stormbreak.config.settings import Settings
from stormbreak.config.write_policy import describe, describe_settings

__all__ = [
    "Settings", "describe", "describe_settings", "load_policy", "load_settings", "profiles_in",
    "resolve_policy", "resolve_settings",
]  # fmt: skip
