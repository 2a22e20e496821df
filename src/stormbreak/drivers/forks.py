"""What a child process must forget of its parent.

A fork copies the memory and shares the sockets. In the child no attempt of the parent will ever end, a lock may
be held by a thread that is not there, and what is read from a connection is missing in the parent. So whoever
holds any of that says here how it is forgotten; it happens before anything else runs in the child.
"""

import os
from collections.abc import Callable
from types import MethodType
from typing import Any, cast
from weakref import WeakKeyDictionary

_forgetful: WeakKeyDictionary[object, Callable[[Any], None]] = WeakKeyDictionary()


def forget_in_child(forget: Callable[[], None]) -> None:
    """Have the bound method `forget` called in every child, for as long as its object lives; one of each object."""
    method = cast("MethodType", forget)
    _forgetful[method.__self__] = method.__func__


def _in_child() -> None:
    for forgetful, forget in tuple(_forgetful.items()):
        forget(forgetful)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_in_child)
