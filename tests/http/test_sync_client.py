"""The blocking client on real sockets: calls, streams, interrupts, threads, forks."""

import asyncio
import os
import signal
import threading
import time
import warnings
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
from chat_stream import CUT, HELLO, WHOLE, WHOLE_ANSWER
from clients import ONCE, PAYLOAD, SAY, THRICE, target_state_of
from forking import in_child
from interrupts import interrupted
from loop_thread import LoopThread
from sockets import PATIENCE, End, answer, failing, served, until

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.fallback_policy import ToDegraded
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.policy import Policy
from stormbreak.errors import (
    ClientClosedError,
    InvalidRequestError,
    RejectedError,
    StreamBrokenError,
)
from stormbreak.http.sync_client import Client
from stormbreak.types import Usage, Verdict

NARROW = Policy(retry_budget=None, limit=FixedLimit(max_in_flight=1), patience=60.0)


@pytest.fixture
def serve():
    """Play scripts on a separate loop; every client must have disconnected at the end."""
    host, servings = LoopThread(), []

    @contextmanager
    def serving(*scripts, **settings):
        scripts_served = served(*scripts)
        server = host.run(scripts_served.__aenter__())
        servings.append(scripts_served)
        with Client(base_url=server.base_url, model="m", **{"policy": THRICE} | settings) as client:
            yield client, server
        host.run(server.all_closed())

    yield serving
    for each in servings:
        host.run(each.__aexit__(None, None, None))
    host.stop()


def in_flight(client):
    return target_state_of(client).slots.in_flight


def elsewhere(do):
    """Run a function on another thread; return a function that waits for its result."""
    got = []

    def works():
        try:
            got.append(do())
        except Exception as error:  # noqa: BLE001 - the caller checks it
            got.append(error)

    thread = threading.Thread(target=works, daemon=True)
    thread.start()

    def result():
        thread.join(PATIENCE)
        return got[0]

    return result


def test_the_client_works_with_a_replaced_clock(monkeypatch):
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", partial(real))  # as freezegun does
    Client(base_url="http://127.0.0.1:9/v1", model="m").close()


def test_a_blocking_call_is_retried_through_an_outage(serve):
    with serve([failing(503)], [failing(503)], [answer()]) as (client, server):
        got = client.chat(SAY)
        assert (got.text, got.attempts) == ("fine", 3)
        assert client.request("chat/completions", PAYLOAD).text == "fine"
        assert len(server.requests) == 4
        assert client.snapshot()["targets"]


def test_the_blocking_client_raises_the_same_errors(serve):
    with serve([failing(400)]) as (client, server):
        with pytest.raises(InvalidRequestError):
            client.chat(SAY)
        with pytest.raises(RejectedError):
            client.request("chat/completions", PAYLOAD, deadline=1e-6)
        assert len(server.requests) == 1


def test_a_blocking_stream_is_read_in_each_way(serve):
    with serve([WHOLE_ANSWER]) as (client, _):
        with client.stream("chat/completions", PAYLOAD) as stream:
            assert [event.json()["choices"][0]["delta"] for event in stream] == [
                {"role": "assistant"}, {"content": "hello"}, {"content": " there"}, {"content": ""},
            ]  # fmt: skip
        assert stream.usage == Usage(input_tokens=3, output_tokens=2)
        assert (stream.attempts, stream.status) == (1, 200)
        with client.stream("chat/completions", PAYLOAD) as stream:
            assert list(stream.texts()) == ["hello", " there"]
        with client.stream("chat/completions", PAYLOAD) as stream:
            assert b"".join(stream.raw()) == WHOLE
        with client.stream("chat/completions", PAYLOAD) as stream:
            assert stream.answer().text == "hello there"
        assert in_flight(client) == 0


def test_a_broken_stream_raises_after_its_texts(serve):
    with serve([CUT, End.CLOSE]) as (client, server):
        got = []
        with (
            client.stream("chat/completions", PAYLOAD) as stream,
            pytest.raises(StreamBrokenError) as raised,
        ):
            got.extend(iter(stream.texts()))
        assert raised.value.received.endswith(HELLO)
        assert (len(server.requests), in_flight(client)) == (1, 0)


def test_texts_are_yielded_at_once(serve):
    with serve([CUT, End.HANG]) as (client, _), client.stream("chat/completions", PAYLOAD) as s:
        assert next(s.texts()) == "hello"


def test_an_interrupt_closes_the_connection_of_a_call(serve):
    with serve([End.HANG]) as (client, server):
        with interrupted(once=lambda: server.requests), pytest.raises(KeyboardInterrupt):
            client.chat(SAY)
        assert in_flight(client) == 0
        until(lambda: server.closed == server.opened == 1)


def test_an_interrupt_closes_a_stream_being_read(serve):
    with serve([CUT, End.HANG]) as (client, server):
        stream = client.stream("chat/completions", PAYLOAD)
        texts = stream.texts()
        assert next(texts) == "hello"
        with interrupted(), pytest.raises(KeyboardInterrupt):
            next(texts)
        assert in_flight(client) == 0
        until(lambda: server.closed == 1)


def test_closing_a_stream_from_another_thread_ends_its_reader(serve):
    with serve([CUT, End.HANG]) as (client, _):
        stream = client.stream("chat/completions", PAYLOAD)
        texts = stream.texts()
        assert next(texts) == "hello"
        reader = elsewhere(lambda: next(texts))
        time.sleep(0.02)
        stream.close()
        stream.close()
        assert isinstance(reader(), RuntimeError | StreamBrokenError)
        assert in_flight(client) == 0


def test_a_dropped_stream_is_closed_with_a_warning(serve):
    with serve([CUT, End.HANG]) as (client, _):
        stream = client.stream("chat/completions", PAYLOAD)
        with pytest.warns(ResourceWarning, match="was never closed"):
            del stream
        until(lambda: in_flight(client) == 0)


def test_close_from_another_thread_ends_queued_and_sent_calls(serve):
    with serve([End.HANG], policy=NARROW) as (client, _):
        sent = elsewhere(lambda: client.chat(SAY))
        until(lambda: in_flight(client) == 1)
        waits = elsewhere(lambda: client.chat(SAY))
        until(lambda: target_state_of(client).admission.queued == 1)
        client.close()

        assert isinstance(waits(), ClientClosedError)
        assert isinstance(sent(), ClientClosedError)
        assert in_flight(client) == 0


def test_a_closed_client_is_closed_in_child_processes(serve):
    with serve(answer()) as (client, _):
        client.chat(SAY)
        client.close()

        def refused():
            with pytest.raises(ClientClosedError):
                client.chat(SAY)
            return True

        assert in_child(refused)


def test_close_ends_a_stream_that_another_thread_reads(serve):
    with serve([CUT, End.HANG], policy=NARROW) as (client, server):
        stream = client.stream("chat/completions", PAYLOAD)
        texts = stream.texts()
        assert next(texts) == "hello"
        reader = elsewhere(lambda: next(texts))
        time.sleep(0.02)
        client.close()

        error = reader()
        assert isinstance(error, StreamBrokenError)
        assert error.received.endswith(HELLO)
        stream.close()
        until(lambda: server.closed == 1)
        assert in_flight(client) == 0


def test_a_closed_client_rejects_calls_in_every_thread(serve):
    with serve([answer()]) as (client, server):
        assert client.chat(SAY).text == "fine"
        client.close()
        client.close()
        for do in (lambda: client.chat(SAY), lambda: client.stream("chat/completions", PAYLOAD)):
            with pytest.raises(ClientClosedError, match="the client is closed"):
                do()
            assert isinstance(elsewhere(do)(), ClientClosedError)
        assert len(server.requests) == 1


def test_threads_share_the_in_flight_limit(serve):
    with serve([0.005, answer()], policy=NARROW) as (client, server):
        ends = [elsewhere(lambda: [client.chat(SAY).text for _ in range(5)]) for _ in range(8)]
        assert [end() for end in ends] == [["fine"] * 5] * 8
        assert server.opened == 1  # one call at a time needs one connection


def test_a_forked_child_can_make_calls(serve):
    with serve([answer()]) as (client, _):
        assert client.chat(SAY).text == "fine"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it forks with threads
            child = os.fork()
        if child == 0:
            signal.alarm(120)
            well = False
            try:
                well = client.chat(SAY).text == "fine"
            finally:
                os._exit(0 if well else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.chat(SAY).text == "fine"


HEDGED = replace(THRICE, hedge=HedgePolicy(delay=0.1, percentile=None), retry_budget=None)


def test_a_hedge_overtakes_a_silent_attempt(serve):
    """Both attempts run on this thread."""
    with serve([End.HANG], [answer()], policy=HEDGED) as (client, server):
        got = client.chat(SAY)
        assert (got.text, got.attempts, got.maybe_processed) == ("fine", 2, 1)
        assert in_flight(client) == 0
        until(lambda: (server.opened, server.closed) == (2, 1))


def test_a_hedged_stream_comes_from_the_first_attempt_with_output(serve):
    with serve([End.HANG], [WHOLE_ANSWER], policy=HEDGED) as (client, server):
        with client.stream("chat/completions", PAYLOAD) as stream:
            assert list(stream.texts()) == ["hello", " there"]
        assert (stream.attempts, in_flight(client)) == (2, 0)
        until(lambda: server.closed == 1)


def test_a_blocking_call_starts_no_thread(serve):
    with serve([answer()]) as (client, server):
        before = set(threading.enumerate())
        client.chat(SAY)
        with client.stream("chat/completions", PAYLOAD) as stream:
            stream.answer()
        assert set(threading.enumerate()) == before
        assert [request.connection for request in server.requests] == [1, 1]


def test_a_blocking_stream_ends_at_its_deadline(serve, jump):
    with serve([CUT, End.HANG]) as (client, _):
        with client.stream("chat/completions", PAYLOAD, deadline=60.0) as stream:
            jump(59.8)
            with pytest.raises(StreamBrokenError) as raised:
                list(stream.texts())
        assert raised.value.ended.outcome.verdict is Verdict.TIMEOUT
        assert in_flight(client) == 0


def test_key_and_degraded_functions_of_a_blocking_client_may_be_coroutines(serve):
    async def key():
        await asyncio.sleep(0.01)
        return "sk-canary-0123456789"

    async def degraded(payload, outcome):
        await asyncio.sleep(0.01)
        return f"no {payload['model']}: {outcome.verdict}"

    policy = replace(ONCE, fallback=(ToDegraded(),))
    with serve([failing(503)], policy=policy, api_key=key, degraded=degraded) as (client, server):
        assert client.chat(SAY).text == "no m: overloaded"
        assert server.requests[0].headers["authorization"] == "Bearer sk-canary-0123456789"
