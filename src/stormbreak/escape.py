"""Escape text from outside (ids, paths, URLs, model names) for a terminal, a log line or a label."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import hidden
from stormbreak.types import Target

_FULL = {errno.ENOSPC, errno.EDQUOT}


def plain(text: object, limit: int = 64) -> str:
    """Escape text for a terminal, and cut it after `limit` characters."""
    escaped = printable(str(text)[: limit + 1])
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


def printable(text: str) -> str:
    """Escape every character that a terminal does not print."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def ending(text: object, limit: int = 64) -> str:
    """Like `plain`, but keep the end, where paths differ."""
    escaped = printable(str(text))
    return escaped if len(escaped) <= limit else "…" + escaped[1 - limit :]


def path_of(path: object) -> str:
    """Escape the path of a file, without cutting any path that file systems allow."""
    return plain(path, limit=4096)


def reason(error: OSError) -> str:
    """Return the short reason of a system error."""
    if error.errno in _FULL:
        return "disk full"
    return (error.strerror or type(error).__name__).lower()


@contextmanager
def system_errors_at(path: object) -> Iterator[None]:
    """Raise a ConfigurationError for a system error: `path: reason`."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{path_of(path)}: {reason(error)}") from error


# ---------------------------------------------------------------- names and codes in messages

NAME = 64  # maximum characters of a name in a message
LABEL = 80  # maximum characters of a name in a log line or a metric label


def shown(text: object, limit: int = NAME) -> str:
    """Return one line of at most `limit` characters, with control characters escaped and keys hidden."""
    return plain(hidden(str(text)[: 4 * limit]), limit=limit)


def quote(value: object) -> str:
    """Like `shown`, in quotes: ids and columns of a user may look like a key, and only known kinds are hidden."""
    return f"'{shown(value)}'"


def escape_name(name: object) -> str:
    """Escape the name of a policy, which may be a path: like `shown`, but keep the end."""
    return ending(hidden(str(name)), limit=NAME)


def escape_target(target: Target) -> Target:
    """Escape the names of a target."""
    provider, model, _, name = target
    return target._replace(
        provider=shown(provider, LABEL), model=shown(model, LABEL), name=shown(name, LABEL)
    )
