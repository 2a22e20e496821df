"""What a child process must forget of its parent.

A fork copies the memory and shares the sockets. In the child no attempt of the parent will ever end, a lock may
be held by a thread that is not there, and what is read from a connection is missing in the parent. So whoever
holds any of that says here how it is forgotten; it happens before anything else runs in the child.
"""

import os
from collections.abc import Callable
from weakref import WeakMethod, ref

_forgetful: set[ref[Callable[[], None]]] = set()


def forget_in_child(forget: Callable[[], None]) -> None:
    """Have the bound method `forget` called in every child, for as long as its object lives."""
    _forgetful.add(WeakMethod(forget, _forgetful.discard))


def _in_child() -> None:
    for each in tuple(_forgetful):
        forget = each()
        if forget is not None:
            forget()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_in_child)
