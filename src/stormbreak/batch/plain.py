"""Text of strangers (ids, paths, urls), made fit for a terminal and for one line."""

import errno

from stormbreak.keylike import hidden

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
