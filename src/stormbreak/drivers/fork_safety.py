"""Reset state in forked child processes.

A fork copies the memory and shares the sockets. In the child, the parent's attempts never end, a lock may be held by a
thread that does not exist there, and data read from a connection is missing in the parent. So objects with such state
register a reset here. It runs before anything else in the child. Locks are free by then (`locks.new_lock`).
"""

import os
from collections.abc import Callable
from types import MethodType
from typing import Any, cast
from weakref import ref

from stormbreak.drivers.locks import free_locks_in_child

_Forgetful = tuple["ref[object]", Callable[[Any], None]]

# By the id of the object. A dict needs no lock; a lock might be held by a thread that is missing in the child.
_reset_in_child: dict[int, _Forgetful] = {}


def reset_in_child(forget: Callable[[], None]) -> None:
    """Call the bound method `forget` in every child while its object lives; one method per object."""
    method = cast("MethodType", forget)
    key, function = id(method.__self__), method.__func__

    def gone(_: object) -> None:
        _reset_in_child.pop(key, None)

    _reset_in_child[key] = ref(method.__self__, gone), function


def _in_child() -> None:
    free_locks_in_child()
    failed: list[Exception] = []
    for known, forget in list(_reset_in_child.values()):
        owner = known()
        if owner is not None:
            try:
                forget(owner)
            except Exception as error:  # noqa: BLE001 - all others must forget as well
                failed.append(error)
    if failed:
        raise ExceptionGroup("a forked child could not forget all of its parent", failed)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_in_child)
