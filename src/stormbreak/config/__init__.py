"""Policies from presets and TOML files, with errors that name the key and the value.

`load_policy` reads a file, `resolve_policy` takes a preset's name or a file, `describe` writes a policy as a
file that reads back to the same policy, `account` tells it in words. A file is data: nothing in it is evaluated, imported or run.
"""

from stormbreak.config.account import account
from stormbreak.config.delays import table as delay_table
from stormbreak.config.describe import describe
from stormbreak.config.load import load_policy, resolve_policy

__all__ = ["account", "delay_table", "describe", "load_policy", "resolve_policy"]
