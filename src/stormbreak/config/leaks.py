"""Refuses a policy that holds what looks like an API key, and never says what it was.

A policy is shared, printed and put under version control; keys come from environment variables.
"""

import re
from typing import Any

from stormbreak.config.schema import join
from stormbreak.errors import ConfigurationError
from stormbreak.keylike import is_familiar, is_token

_SECRET_NAME = re.compile(r"(key|secret|token|password|authorization|bearer|credentials?)s?$")
_ADVICE = "a policy holds no keys, they come from environment variables"


def refuse_familiar(text: str) -> None:
    """Refuse a text in which a line, a comment included, holds a key of a familiar form."""
    for number, line in enumerate(text.splitlines(), 1):
        if is_familiar(line):
            raise ConfigurationError(f"line {number} looks like it holds an API key; {_ADVICE}")


def refuse_named(table: dict[str, Any], path: str = "") -> None:
    """Refuse a table with a key that is named like a secret, or with a value that looks like one."""
    for key, value in table.items():
        if is_token(key):
            raise ConfigurationError(f"{path or 'the file'} has a key that looks like a secret")
        _refuse_value(join(path, key), key, value)


def _refuse_value(path: str, key: str, value: Any) -> None:
    if isinstance(value, dict):
        refuse_named(value, path)
    elif isinstance(value, list):
        for item in value:
            _refuse_value(path, key, item)
    elif isinstance(value, str) and (_SECRET_NAME.search(key.lower()) or is_token(value)):
        raise ConfigurationError(f"{path} looks like an API key; {_ADVICE}")
