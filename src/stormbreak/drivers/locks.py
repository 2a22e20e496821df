"""The locks of this package, and the rules while one is held.

The garbage collector runs at almost any allocation, and a signal handler between almost any two instructions. Both run
foreign code on the interrupted thread: finalizers of an SDK, weak references, generators that are closed. So every lock
here is reentrant, is made by `new_lock`, and is free again in a forked child. While a lock is held:

- code does not wait for another thread, a loop, or the start of a thread;
- code does not call listeners, log handlers or users' functions; they are called after the release;
- the data is consistent at each point where such code can run, or that code is postponed (`turn_lock`).

Do not use a lock for a single operation: an operation of a dict, set or deque cannot be interrupted (`LiveSet`,
`cached_value`).
"""

from collections.abc import Callable, Iterator
from threading import RLock
from typing import Any, Generic, TypeVar
from weakref import ref

T = TypeVar("T")

_locks: "set[ref[Any]]" = set()  # all live locks


def new_lock() -> Any:
    """Make a reentrant lock that is free in every forked child, unless the forking thread holds it."""
    lock = RLock()
    _locks.add(ref(lock, _locks.discard))
    return lock


def _alive() -> list[Any]:
    return [lock for known in _locks.copy() if (lock := known()) is not None]


def free_locks_in_child() -> None:
    """Free the locks held by threads that do not exist in this child process."""
    for lock in _alive():
        if not lock._is_owned():  # noqa: SLF001 - as `threading.Condition` asks
            lock._at_fork_reinit()  # noqa: SLF001 - as `logging` does


class LiveSet(Generic[T]):
    """A set of weak references to live objects. From any thread: no operation can be interrupted.

    A `weakref.WeakSet` consists of many operations, so it needs a lock if several threads use it.
    """

    __slots__ = ("_refs",)

    def __init__(self) -> None:
        self._refs: set[ref[T]] = set()

    def add(self, one: T) -> None:
        """Add an object. Idempotent."""
        self._refs.add(ref(one, self._refs.discard))

    def discard(self, one: T) -> None:
        self._refs.discard(ref(one))

    def __contains__(self, one: T) -> bool:
        return ref(one) in self._refs

    def __iter__(self) -> Iterator[T]:
        """Iterate over the present objects, whatever is added or dropped meanwhile."""
        return iter([one for known in self._refs.copy() if (one := known()) is not None])

    def __len__(self) -> int:
        return len(self._refs)


class cached_value(Generic[T]):  # noqa: N801 - a decorator, as that of functools
    """A property that is computed on first use: `functools.cached_property` without its lock.

    In Python 3.11 that holds one lock for all objects of a class while it computes; after a fork in that moment, the
    child could never take the lock. Here two threads may both compute; one value is kept.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    def __get__(self, owner: Any, kind: type | None = None) -> T:
        if owner is None:
            return self  # type: ignore[return-value]
        value = self._compute(owner)
        kept: T = owner.__dict__.setdefault(self._name, value)
        return kept
