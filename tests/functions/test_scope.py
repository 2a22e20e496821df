"""Scopes around guarded functions: what holds where the call begins goes before what the guard was made with."""

import asyncio
import time

import pytest
from guarding import DownError, Script, made
from table_test import table_test

from stormbreak import Priority, scope
from stormbreak.errors import AttemptTimeoutError, ShedError
from stormbreak.events import Labelled


def told(guard):
    """What a call says of itself from within."""
    (call,) = guard._loops.snapshot()["pending"] or guard._threads.snapshot()["pending"]
    return call["priority"], call["tenant"], call["labels"]


def test_it_goes_before_what_the_guard_was_made_with():
    guard = made(priority=Priority.BATCH, tenant="shop")
    assert guard.call(told, guard) == ("batch", "shop", {})
    with scope(priority=Priority.BACKGROUND, tenant="acme", labels={"a": "1"}):
        assert guard.call(told, guard) == ("background", "acme", {"a": "1"})


@table_test(("retries", "sent"), [(0, 1), (1, 2), (99, 3)])
def test_retries_are_what_may_follow(retries, sent):
    script = Script(*[DownError()] * 5)
    with scope(retries=retries), pytest.raises(DownError):
        made().call(script)
    assert script.made == sent


def test_each_form_of_a_call_heeds_it():
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


async def test_its_deadline_cuts_an_attempt():
    began = time.monotonic()
    with scope(deadline=0.1), pytest.raises(AttemptTimeoutError):
        await made().async_call(asyncio.sleep, 60)
    assert time.monotonic() - began < 20


def test_a_deadline_that_has_passed_calls_nothing():
    script = Script(1)
    with scope(deadline=0), pytest.raises(ShedError):
        made().call(script)
    assert script.made == 0


def test_a_listener_hears_the_labels():
    guard, events = made(), []
    guard.subscribe(events.append)
    with scope(labels={"feature": "search"}):
        guard.call(int)
    assert [event.labels for event in events if isinstance(event, Labelled)] == [
        (("feature", "search"),)
    ]
