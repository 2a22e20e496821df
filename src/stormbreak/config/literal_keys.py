"""Reject a file that seems to contain an API key, without repeating the key.

Files are shared, printed and put under version control; keys belong in environment variables.
"""

import re
from typing import Any

from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import is_constant, is_secret_name, is_token
from stormbreak.toml_reader import join

TENANTS = "queue.tenant_weights"  # names of tenants may be ids and hashes
MODELS = "models"  # names of models, by names of models
VARIABLE = "api_key_env"  # names the variable that holds a key
COUNT = "max_output_tokens"  # a number, or "none"
# Paths with digits look like tokens.
PATHS = frozenset({"path", "api_key_file", "ledger", "prices"})
# Their keys are chosen names.
NAMING = frozenset({"targets", "pools", "profiles", "keys", "tenants"})
# "gpt-4.1-mini-2025-04-14" is not a secret
NAMES = frozenset({"model", "models", "target", "targets"})
DIGEST = "sha256"  # of a client key: it cannot be turned back into the key
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ADVICE = "a file must not contain keys, use environment variables"


def refuse(table: dict[str, Any], path: str = "") -> None:
    """Reject a table with a key named like a secret, or a value that looks like one."""
    for key, value in table.items():
        if path.rpartition(".")[2] == MODELS:
            for name in (key, value):
                _refuse_value(path, "model", name)
            continue
        named = f".{path}".endswith(f".{TENANTS}")
        if is_token(key) and not (named or path.rpartition(".")[2] in NAMING):
            raise ConfigurationError(f"{path or 'the file'} has a key that looks like a secret")
        _refuse_value(join(path, key), "" if named else key, value)


def _refuse_value(path: str, key: str, value: Any) -> None:
    if isinstance(value, dict):
        refuse(value, path)
    elif isinstance(value, list):
        for item in value:
            _refuse_value(path, key, item)
    elif isinstance(value, str) and (
        (is_secret_name(key) and key != COUNT) or _looks_secret(key, value)
    ):
        raise ConfigurationError(f"{path} looks like an API key; {_ADVICE}")


def _looks_secret(key: str, value: str) -> bool:
    if key == VARIABLE and is_constant(value):
        return False
    if key == DIGEST and _SHA256.fullmatch(value):
        return False
    if key in PATHS and ("/" in value or "." in value):
        return False
    if key in NAMES:
        return any(map(is_token, re.split(r"[-./:_]", value)))
    return is_token(value)
