"""What holds for every call within a block, however far down, and on the background loop, too."""

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


def test_without_a_scope_nothing_holds():
    assert current() == Scope()


def test_it_holds_within_the_block_and_not_behind_it(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    with scope(deadline=5.0) as here:
        assert current() is here
        assert seconds_left() == 5.0
    assert current() == Scope()


@table_test(("outer", "inner", "least"), [(1.0, 60.0, 1.0), (60.0, 1.0, 1.0), (1.0, None, 1.0)])
def test_an_inner_scope_extends_nothing(monkeypatch, outer, inner, least):
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    with scope(deadline=outer):
        with scope(deadline=inner):
            assert seconds_left() == least
        assert seconds_left() == outer


@table_test("deadline", [-1.0, float("nan")])
def test_a_deadline_that_is_none_is_refused(deadline):
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


async def test_a_deadline_that_has_passed_sends_nothing():
    async with served([End.HANG]) as server, client_of(server) as client:
        with scope(deadline=0), pytest.raises(ShedError):
            async with asyncio.timeout(30):
                await client.chat(SAY)
        assert server.requests == []


async def test_a_stream_ends_by_it_too():
    async with served([End.HANG]) as server, client_of(server) as client:
        with scope(deadline=0.2), pytest.raises(AttemptTimeoutError):
            async with asyncio.timeout(30):
                await client.stream("chat/completions", {"messages": SAY})


def test_it_goes_along_to_the_background_loop():
    with serve("calm") as provider, Client(base_url=provider.base_url, model="m") as client:
        with scope(deadline=0), pytest.raises(ShedError):
            client.chat(SAY)
        assert client.chat(SAY).text


# ------------------------------------------------------------ scopes within scopes


def test_all_of_it_holds():
    with scope(
        priority=Priority.BATCH, tenant="acme", labels={"b": "2", "a": "1"}, retries=2
    ) as here:
        assert here == Scope(None, Priority.BATCH, "acme", (("a", "1"), ("b", "2")), 3)
    assert current() == Scope()


def test_the_inner_decides_and_adds_its_labels():
    with scope(priority=Priority.BATCH, tenant="acme", labels={"a": "1", "b": "1"}, retries=0):
        with scope(labels={"b": "2", "c": "2"}) as added:
            assert added.labels == (("a", "1"), ("b", "2"), ("c", "2"))
            assert added[1:3] == (Priority.BATCH, "acme")
            assert added.max_attempts == 1
        with scope(priority=Priority.INTERACTIVE, tenant="shop", retries=3) as inner:
            assert inner[1:] == (Priority.INTERACTIVE, "shop", (("a", "1"), ("b", "1")), 4)
        with scope(tenant="") as nobody:
            assert nobody.tenant == ""


@table_test(
    ("said", "told"),
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
def test_what_cannot_be_right_is_refused_where_it_is_written(said, told):
    with pytest.raises(ConfigurationError, match=told):
        scope(**said)


def test_a_refusal_shows_no_key():
    for said in ({"tenant": f"{KEYLIKE}\n"}, {"labels": {KEYLIKE: "\n"}}, {"priority": KEYLIKE}):
        with pytest.raises(ConfigurationError) as refused:
            scope(**said)
        assert KEYLIKE not in str(refused.value)


def test_labels_are_bounded_over_all_scopes():
    with scope(labels=dict.fromkeys(map(str, range(MAX_LABELS)), "x")) as outer:
        with pytest.raises(ConfigurationError, match="16 labels"), scope(labels={"one-more": "x"}):
            pass
        assert current() is outer


def test_a_deadline_without_end_is_none():
    with scope(deadline=float("inf")) as here:
        assert here.deadline_at is None


def test_a_scope_is_entered_once_and_decorates_nothing():
    block = scope(retries=0)
    with block, pytest.raises(RuntimeError, match="entered once"):
        block.__enter__()
    with pytest.raises(TypeError):
        scope(retries=0)(lambda: None)


# ------------------------------------------------------------ tasks, threads, generators


async def test_two_tasks_have_each_their_own():
    async def within(tenant):
        with scope(tenant=tenant):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return current().tenant

    assert await asyncio.gather(within("a"), within("b")) == ["a", "b"]


async def test_a_task_and_a_thread_that_are_started_in_it_keep_it():
    async def tenant():
        await asyncio.sleep(0)
        return current().tenant

    with scope(tenant="acme"):
        task = asyncio.create_task(tenant())
        thread = asyncio.create_task(asyncio.to_thread(lambda: current().tenant))
    assert current() == Scope()
    assert [await task, await thread] == ["acme", "acme"]


def test_a_bare_thread_has_none():
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


def test_a_generator_that_is_read_to_its_end_leaves_nothing():
    assert list(asked("acme")) == ["acme", "acme"]
    assert current() == Scope()


def test_generators_that_end_out_of_order_leave_nothing():
    first, second = asked("first"), asked("second")
    assert [next(first), next(second)] == ["first", "second"]
    first.close()
    assert current().tenant == "second"
    second.close()
    assert current() == Scope()


def test_a_generator_that_is_ended_elsewhere_leaves_nothing():
    begun = asked("acme")
    assert next(begun) == "acme"
    copy_context().run(begun.close)  # as a loop does with one that was dropped
    assert current() == Scope()
    with scope(retries=1) as here:
        assert here == Scope(max_attempts=2)
    assert current() == Scope()


# ------------------------------------------------------------ calls of the client


def calls_of(client):
    """The calls of a client as they begin."""
    calls, call = [], client._call
    client._call = lambda *args, **more: calls.append(call(*args, **more)) or calls[-1]
    return calls


async def test_a_call_has_what_holds_unless_it_says_otherwise():
    async with served() as server, client_of(server) as client:
        calls = calls_of(client)
        with scope(priority=Priority.BATCH, tenant="acme", labels={"a": "1"}, retries=0):
            await client.chat(SAY)
            said = {"priority": Priority.INTERACTIVE, "tenant": "shop"}
            await client.request("chat/completions", {"messages": SAY}, **said)
            await client.ask("chat/completions", b'{"model": "m", "messages": []}', attempts=3)
        await client.chat(SAY)
    told = [(call.priority, call.tenant, call.max_attempts, call.labels) for call in calls]
    labels = (("a", "1"),)
    assert told == [
        (Priority.BATCH, "acme", 1, labels),
        (Priority.INTERACTIVE, "shop", 1, labels),
        (Priority.BATCH, "acme", 3, labels),
        (Priority.INTERACTIVE, "", None, ()),
    ]


@pytest.mark.parametrize(("retries", "sent"), [(0, 1), (1, 2), (99, 4)])
async def test_retries_are_what_may_follow_where_the_policy_allows_more(retries, sent):
    async with served(failing(503)) as server, client_of(server) as client:
        with scope(retries=retries), pytest.raises(UpstreamError):
            await client.chat(SAY)
        assert len(server.requests) == sent


async def test_a_listener_hears_labels_before_anything_else_of_the_call():
    events = []
    async with served(answer()) as server, client_of(server) as client:
        client.subscribe(events.append)
        await client.chat(SAY)
        assert not any(isinstance(event, Labelled) for event in events)
        events.clear()
        with scope(labels={"feature": "search"}):
            await client.chat(SAY)
    told, sent = events[:2]
    assert isinstance(told, Labelled)
    assert isinstance(sent, Sent)
    assert told.call == sent.call
    assert told.labels == (("feature", "search"),)
