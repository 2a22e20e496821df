"""Names that others chose, such as that of a model, made fit for a line of a log, a label or a terminal."""

from stormbreak.keylike import hidden
from stormbreak.types import Target

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
