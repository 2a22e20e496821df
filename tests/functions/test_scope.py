"""Scopes around guarded functions: the scope of a call overrides the arguments of the guard."""

import asyncio
import time

import pytest
from guarding import DownError, Script, made
from table_test import table_test

from stormbreak import Priority, scope
from stormbreak.errors import AttemptTimeoutError, ShedError
from stormbreak.events import Labelled


def pending_call(guard):
    """Return priority, tenant and labels of the pending call."""
    (call,) = guard._loops.snapshot()["pending"] or guard._threads.snapshot()["pending"]
    return call["priority"], call["tenant"], call["labels"]


def test_a_scope_overrides_priority_tenant_and_labels_of_the_guard():
    guard = made(priority=Priority.BATCH, tenant="shop")
    assert guard.call(pending_call, guard) == ("batch", "shop", {})
    with scope(priority=Priority.BACKGROUND, tenant="acme", labels={"a": "1"}):
        assert guard.call(pending_call, guard) == ("background", "acme", {"a": "1"})


@table_test(("retries", "sent"), [(0, 1), (1, 2), (99, 3)])
def test_retries_of_a_scope_bound_the_attempts(retries, sent):
    script = Script(*[DownError()] * 5)
    with scope(retries=retries), pytest.raises(DownError):
        made().call(script)
    assert script.made == sent


def test_a_scope_holds_for_each_form_of_a_call():
    def blocks(guard, script):
        for attempt in guard:
            with attempt:
                script()

    forms = [
        lambda guard, script: guard.call(script),
        lambda guard, script: guard(script)(),
        lambda guard, script: asyncio.run(guard.async_call(script.later)),
        lambda guard, script: list(guard.stream(lambda: iter([script()]))),
        blocks,
    ]
    for form in forms:
        script = Script(*[DownError()] * 5)
        with scope(retries=0), pytest.raises(DownError):
            form(made(), script)
        assert script.made == 1


async def test_the_deadline_of_a_scope_cuts_an_attempt():
    began = time.monotonic()
    with scope(deadline=0.1), pytest.raises(AttemptTimeoutError):
        await made().async_call(asyncio.sleep, 60)
    assert time.monotonic() - began < 20


def test_a_deadline_in_the_past_sheds_the_call():
    script = Script(1)
    with scope(deadline=0), pytest.raises(ShedError):
        made().call(script)
    assert script.made == 0


def test_a_listener_receives_the_labels_of_a_scope():
    guard, events = made(), []
    guard.subscribe(events.append)
    with scope(labels={"feature": "search"}):
        guard.call(int)
    assert [event.labels for event in events if isinstance(event, Labelled)] == [
        (("feature", "search"),)
    ]
