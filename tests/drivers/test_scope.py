"""Options of every call within a block, at any depth, also on the background loop."""

import asyncio
import threading
import time
from contextvars import copy_context

import pytest
from clients import SAY, client_of
from sockets import End, answer, failing, served
from table_test import table_test

from stormbreak import Client, ConfigurationError, Priority, UpstreamError, scope
from stormbreak.drivers.scope import MAX_LABELS, MAX_TEXT, Scope, current
from stormbreak.errors import AttemptTimeoutError, ShedError
from stormbreak.events import Labelled, Sent
from stormbreak.testing import serve

KEYLIKE = "sk-canary-0123456789"


def seconds_left():
    return current().deadline_at - time.monotonic()


def test_without_a_scope_nothing_is_set():
    assert current() == Scope()


def test_a_scope_applies_inside_its_block_only(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    with scope(deadline=5.0) as here:
        assert current() is here
        assert seconds_left() == 5.0
    assert current() == Scope()


@table_test(("outer", "inner", "least"), [(1.0, 60.0, 1.0), (60.0, 1.0, 1.0), (1.0, None, 1.0)])
def test_an_inner_scope_extends_no_deadline(monkeypatch, outer, inner, least):
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    with scope(deadline=outer):
        with scope(deadline=inner):
            assert seconds_left() == least
        assert seconds_left() == outer


@table_test("deadline", [-1.0, float("nan")])
def test_an_invalid_deadline_is_rejected(deadline):
    with (
        pytest.raises(ConfigurationError, match="deadline must not be negative"),
        scope(deadline=deadline),
    ):
        pass


@pytest.mark.parametrize(("call", "around"), [(None, 0.2), (60.0, 0.2), (0.2, 60.0)])
async def test_the_earlier_of_two_deadlines_ends_a_call(call, around):
    async with served([End.HANG]) as server, client_of(server) as client:
        began = time.monotonic()
        with scope(deadline=around), pytest.raises(AttemptTimeoutError) as caught:
            async with asyncio.timeout(30):
                await client.request("chat/completions", {"messages": SAY}, deadline=call)
        assert 0.15 < time.monotonic() - began < 20.0
        assert caught.value.ended.outcome.own_deadline


async def test_a_passed_deadline_sends_nothing():
    async with served([End.HANG]) as server, client_of(server) as client:
        with scope(deadline=0), pytest.raises(ShedError):
            async with asyncio.timeout(30):
                await client.chat(SAY)
        assert server.requests == []


async def test_a_scope_deadline_ends_a_stream():
    async with served([End.HANG]) as server, client_of(server) as client:
        with scope(deadline=0.2), pytest.raises(AttemptTimeoutError):
            async with asyncio.timeout(30):
                await client.stream("chat/completions", {"messages": SAY})


def test_a_scope_applies_on_the_background_loop():
    with serve("calm") as provider, Client(base_url=provider.base_url, model="m") as client:
        with scope(deadline=0), pytest.raises(ShedError):
            client.chat(SAY)
        assert client.chat(SAY).text


# ------------------------------------------------------------ scopes within scopes


def test_a_scope_holds_priority_tenant_labels_and_retries():
    with scope(
        priority=Priority.BATCH, tenant="acme", labels={"b": "2", "a": "1"}, retries=2
    ) as here:
        assert here == Scope(None, Priority.BATCH, "acme", (("a", "1"), ("b", "2")), 3)
    assert current() == Scope()


def test_an_inner_scope_overrides_options_and_adds_labels():
    with scope(priority=Priority.BATCH, tenant="acme", labels={"a": "1", "b": "1"}, retries=0):
        with scope(labels={"b": "2", "c": "2"}) as added:
            assert added.labels == (("a", "1"), ("b", "2"), ("c", "2"))
            assert added[1:3] == (Priority.BATCH, "acme")
            assert added.max_attempts == 1
        with scope(priority=Priority.INTERACTIVE, tenant="shop", retries=3) as inner:
            assert inner[1:] == (Priority.INTERACTIVE, "shop", (("a", "1"), ("b", "1")), 4)
        with scope(tenant="") as anonymous:
            assert anonymous.tenant == ""


@table_test(
    ("options", "message"),
    [
        ({"deadline": "5"}, "deadline must be a number of seconds, got str"),
        ({"priority": 1}, "priority must be one of Priority.INTERACTIVE, .*, got '1'"),
        ({"retries": -1}, "retries must not be negative, got -1"),
        ({"retries": 1.5}, "retries must be a whole number, got float"),
        ({"retries": True}, "retries must be a whole number, got bool"),
        ({"tenant": 7}, "tenant must be printable text of at most 200 characters, got '7'"),
        ({"tenant": "x" * (MAX_TEXT + 1)}, "tenant must be printable text"),
        ({"labels": ["a"]}, "labels must be a mapping of names to texts, got list"),
        ({"labels": {"Feature": "x"}}, "the name of a label must be .*, got 'Feature'"),
        ({"labels": {"": "x"}}, "the name of a label must be .*, got ''"),
        ({"labels": {"a": "one\ntwo"}}, "label 'a' must be printable text"),
        ({"labels": {"a": 1}}, "label 'a' must be printable text"),
        (
            {"labels": dict.fromkeys(map(str, range(MAX_LABELS + 1)), "x")},
            "there may be 16 labels, got 17",
        ),
    ],
)
def test_an_invalid_option_is_rejected_when_the_scope_is_made(options, message):
    with pytest.raises(ConfigurationError, match=message):
        scope(**options)


def test_a_rejection_shows_no_key():
    for options in ({"tenant": f"{KEYLIKE}\n"}, {"labels": {KEYLIKE: "\n"}}, {"priority": KEYLIKE}):
        with pytest.raises(ConfigurationError) as refused:
            scope(**options)
        assert KEYLIKE not in str(refused.value)


def test_labels_are_bounded_over_all_scopes():
    with scope(labels=dict.fromkeys(map(str, range(MAX_LABELS)), "x")) as outer:
        with pytest.raises(ConfigurationError, match="16 labels"), scope(labels={"one-more": "x"}):
            pass
        assert current() is outer


def test_an_infinite_deadline_is_none():
    with scope(deadline=float("inf")) as here:
        assert here.deadline_at is None


def test_a_scope_is_entered_once_and_decorates_nothing():
    block = scope(retries=0)
    with block, pytest.raises(RuntimeError, match="entered once"):
        block.__enter__()
    with pytest.raises(TypeError):
        scope(retries=0)(lambda: None)


# ------------------------------------------------------------ tasks, threads, generators


async def test_each_task_has_its_own_scope():
    async def within(tenant):
        with scope(tenant=tenant):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return current().tenant

    assert await asyncio.gather(within("a"), within("b")) == ["a", "b"]


async def test_tasks_and_threads_started_in_a_scope_keep_it():
    async def tenant():
        await asyncio.sleep(0)
        return current().tenant

    with scope(tenant="acme"):
        task = asyncio.create_task(tenant())
        thread = asyncio.create_task(asyncio.to_thread(lambda: current().tenant))
    assert current() == Scope()
    assert [await task, await thread] == ["acme", "acme"]


def test_a_plain_thread_has_no_scope():
    seen = []
    with scope(tenant="acme"):
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()
    assert seen == [Scope()]


def asked(tenant):
    with scope(tenant=tenant):
        yield current().tenant
        yield current().tenant


def test_a_generator_that_is_read_to_its_end_leaves_no_scope():
    assert list(asked("acme")) == ["acme", "acme"]
    assert current() == Scope()


def test_generators_that_end_out_of_order_leave_no_scope():
    first, second = asked("first"), asked("second")
    assert [next(first), next(second)] == ["first", "second"]
    first.close()
    assert current().tenant == "second"
    second.close()
    assert current() == Scope()


def test_a_generator_closed_in_another_context_leaves_no_scope():
    begun = asked("acme")
    assert next(begun) == "acme"
    copy_context().run(begun.close)  # as a loop does with a dropped generator
    assert current() == Scope()
    with scope(retries=1) as here:
        assert here == Scope(max_attempts=2)
    assert current() == Scope()


# ------------------------------------------------------------ calls of the client


def calls_of(client):
    """The calls of a client when they begin."""
    calls, call = [], client._call
    client._call = lambda *args, **more: calls.append(call(*args, **more)) or calls[-1]
    return calls


async def test_a_call_takes_options_of_its_scope_unless_it_sets_its_own():
    async with served() as server, client_of(server) as client:
        calls = calls_of(client)
        with scope(priority=Priority.BATCH, tenant="acme", labels={"a": "1"}, retries=0):
            await client.chat(SAY)
            own = {"priority": Priority.INTERACTIVE, "tenant": "shop"}
            await client.request("chat/completions", {"messages": SAY}, **own)
            await client.ask("chat/completions", b'{"model": "m", "messages": []}', attempts=3)
        await client.chat(SAY)
    options = [(call.priority, call.tenant, call.max_attempts, call.labels) for call in calls]
    labels = (("a", "1"),)
    assert options == [
        (Priority.BATCH, "acme", 1, labels),
        (Priority.INTERACTIVE, "shop", 1, labels),
        (Priority.BATCH, "acme", 3, labels),
        (Priority.INTERACTIVE, "", None, ()),
    ]


@pytest.mark.parametrize(("retries", "sent"), [(0, 1), (1, 2), (99, 4)])
async def test_a_scope_caps_retries_but_does_not_extend_the_policy(retries, sent):
    async with served(failing(503)) as server, client_of(server) as client:
        with scope(retries=retries), pytest.raises(UpstreamError):
            await client.chat(SAY)
        assert len(server.requests) == sent


async def test_listeners_get_labels_before_any_other_event_of_the_call():
    events = []
    async with served(answer()) as server, client_of(server) as client:
        client.subscribe(events.append)
        await client.chat(SAY)
        assert not any(isinstance(event, Labelled) for event in events)
        events.clear()
        with scope(labels={"feature": "search"}):
            await client.chat(SAY)
    labelled, sent = events[:2]
    assert isinstance(labelled, Labelled)
    assert isinstance(sent, Sent)
    assert labelled.call == sent.call
    assert labelled.labels == (("feature", "search"),)
