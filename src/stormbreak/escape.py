"""Escape text from outside (ids, paths, URLs, model names) for a terminal, a log line or a label."""

import errno

from stormbreak.key_patterns import hidden
from stormbreak.types import Target

_FULL = {errno.ENOSPC, errno.EDQUOT}


def plain(text: object, limit: int = 64) -> str:
    """Escape whatever a terminal might obey, and cut what is longer than `limit` characters."""
    said = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in str(text)[: limit + 1]
    )
    return said if len(said) <= limit else said[: limit - 1] + "…"


def ending(text: object, limit: int = 64) -> str:
    """Like `plain`, but the end is what is kept: names that are paths differ there."""
    said = str(text)
    whole = plain(said, 10 * len(said) + 1)  # an escape has ten characters at most
    return whole if len(whole) <= limit else "…" + whole[1 - limit :]


def quoted(text: object) -> str:
    """Like `plain`, in quotes; of a key of a familiar form, only that it looks like one."""
    return f"'{plain(hidden(str(text)))}'"


def path_of(path: object) -> str:
    """Name a file in a message: whole, as far as file systems allow a path to be long."""
    return plain(path, limit=4096)


def reason(error: OSError) -> str:
    """Say in two words why the system refused."""
    if error.errno in _FULL:
        return "disk full"
    return (error.strerror or type(error).__name__).lower()


# ---------------------------------------------------------------- names and codes in messages

NAME = 64
"""Characters of a name that are shown."""


def shown(text: object, limit: int = NAME) -> str:
    """One line of at most `limit` characters: what is invisible or turns the line around is escaped, keys are hidden."""
    return plain(hidden(str(text)), limit=limit)


def escape_name(name: object) -> str:
    """A policy's name, which may be a path: like `shown`, but where it is too long, its end is what is kept."""
    return ending(hidden(str(name)), limit=NAME)


# ---------------------------------------------------------------- names in logs and labels

LONGEST = 80  # characters
_CUT = "..."


def tame(name: str, longest: int = LONGEST) -> str:
    """One line that can be printed, of `longest` characters at most; what looks like a key is not in it."""
    name = hidden(name[: 4 * longest])
    if not name.isprintable():
        name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return name if len(name) <= longest else name[: longest - len(_CUT)] + _CUT


def tamed(target: Target) -> Target:
    """The target with its names made fit."""
    provider, model, _, name = target
    return target._replace(provider=tame(provider), model=tame(model), name=tame(name))
