"""Every lock of the package is made by `new_lock`, and weak collections need none."""

import ast
from pathlib import Path

import pytest
from table_test import table_test

from stormbreak.drivers import locks
from stormbreak.drivers.locks import LiveSet, cached_value, new_lock

SOURCE = Path(locks.__file__).parent.parent
BANNED = {
    "Lock", "RLock", "Condition", "Event", "Semaphore", "BoundedSemaphore", "Barrier", "allocate_lock",
    "WeakSet", "WeakValueDictionary", "WeakKeyDictionary", "cached_property",
}  # fmt: skip
MODULES = {"threading", "_thread", "weakref", "functools"}
ALLOWED = {
    "drivers/locks.py RLock": "of `new_lock`",
    "batch/from_python.py Event": "wakes the reader of results; no child has that thread",
    "gateway/admin.py Event": "waits for the loop on the thread of one status request; no child serves",
    "drivers/circuit_breaker.py Lock": "a flag: never waited for",
    "http/h1/connection.py WeakKeyDictionary": "each loop has its own entry; single operations only",
    "drivers/thread_driver.py Lock": "parks one thread; no child has that thread",
    "telemetry/status_server.py BoundedSemaphore": "never waited for; no child serves",
    "telemetry/gauges.py WeakKeyDictionary": "under a lock of `new_lock`; single operations only",
    "telemetry/prometheus.py Lock": "takes the place of one of prometheus_client in a child",
    "http/h1/async_connection.py WeakKeyDictionary": "each loop has its own entry; single operations only",
    "storm/fit/capacity.py cached_property": "of one thread, in a command",
    "doctor/discovery.py cached_property": "of one thread, in a process of its own",
}


def used_in(path):
    """The names of locks and the like that a module takes from the standard library."""
    text = path.read_text()
    if not any(name in text for name in BANNED):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield from (alias.name for alias in node.names)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in MODULES
        ):
            yield node.attr


def test_all_locks_are_made_in_one_place():
    found = {
        f"{path.relative_to(SOURCE).as_posix()} {name}"
        for path in SOURCE.rglob("*.py")
        for name in used_in(path)
        if name in BANNED
    }
    assert found == ALLOWED.keys()


def test_a_deleted_lock_is_not_kept():
    lock = new_lock()
    assert any(each is lock for each in locks._alive())
    before = len(locks._locks)
    del lock
    assert len(locks._locks) < before


class One:
    pass


def test_a_live_set_keeps_nothing_alive_and_may_change_during_iteration():
    one, other = One(), One()
    live = LiveSet()
    for each in (one, other, one):
        live.add(each)
    assert (len(live), one in live) == (2, True)
    for each in live:  # noqa: B007 - it may not stay alive in another name
        live.add(One())
        live.discard(one)
    del other, each
    assert (len(live), one in live, list(live)) == (0, False, [])


def test_a_cached_value_is_computed_once():
    class Owner:
        times = 0

        @cached_value
        def value(self):
            """A value."""
            self.times += 1
            return self.times

    owner = Owner()
    assert (owner.value, owner.value, owner.times) == (1, 1, 1)
    assert Owner.value.__doc__ == "A value."


@table_test("kind", [int, str])
def test_a_live_set_refuses_a_value_without_weak_references(kind):
    with pytest.raises(TypeError, match="weak reference"):
        LiveSet().add(kind())
