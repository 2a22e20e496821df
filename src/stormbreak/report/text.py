"""Text of strangers (scenarios, policies, models, ids, error codes), made fit to be shown."""

from stormbreak.batch.plain import ending, plain
from stormbreak.keylike import hidden

NAME = 64
"""Characters of a name that are shown."""


def shown(text: object, limit: int = NAME) -> str:
    """One line of at most `limit` characters: what is invisible or turns the line around is escaped, keys are hidden."""
    return plain(hidden(str(text)), limit=limit)


def escape_name(name: object) -> str:
    """A policy's name, which may be a path: like `shown`, but where it is too long, its end is what is kept."""
    return ending(hidden(str(name)), limit=NAME)
