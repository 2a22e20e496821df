"""Refuses a policy that holds what looks like an API key, and never says what it was.

A policy is shared, printed and put under version control; keys come from environment variables. Whatever
this lets pass may be quoted by an error, so it is stricter than a scanner of source code would be.
"""

import re
from typing import Any

from stormbreak.config.schema import join
from stormbreak.errors import ConfigurationError

_SECRET_NAME = re.compile(r"(key|secret|token|password|authorization|bearer|credentials?)s?$")
_FAMILIAR = re.compile(
    r"\b((sk|pk|rk|hs|gsk|csk|xai|hf|r8|ghp|pplx|nvapi)[-_][\w-]{8,}"
    r"|AIza[\w-]{10,}|AKIA[A-Z0-9]{12,}|Bearer\s+\S{8,})"
)
_TOKEN = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[\w+/=.-]{16,}", re.ASCII)
_ADVICE = "a policy holds no keys, they come from environment variables"


def refuse_familiar(text: str) -> None:
    """Refuse a text in which a line, a comment included, holds a key of a familiar form."""
    for number, line in enumerate(text.splitlines(), 1):
        if _FAMILIAR.search(line):
            raise ConfigurationError(f"line {number} looks like it holds an API key; {_ADVICE}")


def refuse_named(table: dict[str, Any], path: str = "") -> None:
    """Refuse a table with a key that is named like a secret, or with a value that looks like one."""
    for key, value in table.items():
        if _TOKEN.fullmatch(key):
            raise ConfigurationError(f"{path or 'the file'} has a key that looks like a secret")
        _refuse_value(join(path, key), key, value)


def holds_token(text: str) -> bool:
    """Whether a word of `text` looks like a secret."""
    return any(_TOKEN.fullmatch(word) for word in re.split(r"[\s'\"`]", text))


def _refuse_value(path: str, key: str, value: Any) -> None:
    if isinstance(value, dict):
        refuse_named(value, path)
    elif isinstance(value, list):
        for item in value:
            _refuse_value(path, key, item)
    elif isinstance(value, str) and (_SECRET_NAME.search(key.lower()) or _TOKEN.fullmatch(value)):
        raise ConfigurationError(f"{path} looks like an API key; {_ADVICE}")
