"""A client and a raw server on one loop: each case is one call with its response, and one more call to find leftovers."""

import asyncio
import gc
import json
import resource
import socket
import struct
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fuzz_answers import CHAT, Meant
from fuzz_truth import may_be
from sockets import PATIENCE, answer

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.drivers.blocking import run
from stormbreak.errors import CallError, ConnectionLostError, StreamBrokenError
from stormbreak.http.client import AsyncClient
from stormbreak.http.sync_client import Client

IDLE = 0.2  # seconds of silence that a client accepts
DEADLINE = 5.0  # seconds
TRICKLING = 0.2  # seconds to the deadline with a slow server
WAYS = ("request", "streamed", "events", "texts", "raw", "answer", "dropped")
ENDS = (*("keep",) * 9, *("close",) * 4, "reset", "silence", "trickle")
BLOCK = 200  # cases on one client
POLICY = Policy(
    deadline=DEADLINE,
    idle_timeout=IDLE,
    retry=RetryPolicy(max_attempts=1),
    retry_budget=None,
    breaker=None,
    limit=FixedLimit(max_in_flight=4),
    rate_limit=RateLimitPolicy(learn_from_headers=True),
)


@dataclass(frozen=True)
class Case:
    """One call, the bytes of its response in pieces, and the end of the connection.

    `meant` is the intended response; `harm` is true if more than the tail was changed.
    """

    endpoint: str
    way: str
    meant: Meant
    sent: bytes
    sizes: tuple[int, ...] = ()
    end: str = "keep"
    cut: bool = False  # bytes are missing at the end
    harm: bool = False  # bytes were changed elsewhere
    hurried: bool = False  # the next call is made before the rest of this response is read

    @property
    def wants_stream(self) -> bool:
        return self.way != "request"

    @property
    def deadline(self) -> float:
        return TRICKLING if self.end == "trickle" else DEADLINE

    def pieces(self):
        at, turn = 0, 0
        while at < len(self.sent):
            size = self.sizes[turn % len(self.sizes)] if self.sizes else len(self.sent)
            size = max(
                size, len(self.sent) // 400
            )  # thousands of tiny pieces test no more than hundreds
            yield self.sent[at : at + size]
            at, turn = at + size, turn + 1


class Rig:
    """Make one call after the other; `run` raises AssertionError if a call ends incorrectly.

    The client runs on the loop, or blocks a thread.
    """

    def __init__(self, *, blocks=False):
        self._blocks = blocks
        self.verdicts = Counter()
        self.slowest = 0.0
        self._case = None
        self._played = asyncio.Event()
        self._tasks = set()
        self._client = None
        self._count = 0
        self.open = 0

    async def start(self):
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._url = f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}/v1"

    async def stop(self):
        """Stop the server and close the client after any failure."""
        if self._client is not None:
            await self._do(self._client.close())
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def run(self, case):
        """Run one case and check the invariants after it."""
        if self._count % BLOCK == 0:
            await self.end_block()
            self._client = self._new_client()
        self._count += 1
        self._case = case
        self._played.clear()
        began = time.perf_counter()
        try:
            result = await asyncio.wait_for(self._do(self._call(case)), case.deadline + 1.0)
        except CallError as error:
            result = error
            self._look_at_error(case, error)
        took = time.perf_counter() - began
        self.slowest = max(self.slowest, took)
        assert took < DEADLINE, "silence went unnoticed until the deadline"
        self.verdicts[str(result.verdict) if isinstance(result, CallError) else "ok"] += 1
        if not isinstance(result, CallError):
            self._look_at_answer(case, *result)
        try:
            await self._look_at_the_next()
        except ConnectionLostError:
            assert case.end == "silence"  # a server that is silent on this connection
            await self._look_at_the_next()

    async def end_block(self):
        """Check that a client has no calls left and, after its close, no connections."""
        client, self._client = self._client, None
        if client is None:
            return
        for target_state in client.snapshot()["targets"].values():
            assert (target_state["in_flight"], target_state["queued"]) == (0, 0)
        assert self.open <= 4
        await self._do(client.close())
        del client
        async with asyncio.timeout(PATIENCE):
            while self.open:  # noqa: ASYNC110 - the server sees the close at once
                await asyncio.sleep(0.001)

    # ------------------------------------------------------------ the calls

    def _new_client(self):
        settings = {"base_url": self._url, "api_key": "key-canary", "policy": POLICY}
        return Client(**settings)._client if self._blocks else AsyncClient(**settings)

    async def _do(self, coroutine):
        """Run a coroutine of the client on its loop or thread."""
        return await (asyncio.to_thread(run, coroutine) if self._blocks else coroutine)

    async def _call(self, case):
        """Return the successful result of the caller: the kind of text, and the text."""
        assert self._client is not None
        payload = {"model": f"m-{self._count % BLOCK}", "input": "hi", "messages": []}
        if case.way in ("request", "streamed"):
            payload |= {"stream": True} if case.wants_stream else {}
            got = await self._client.request(case.endpoint, payload, deadline=case.deadline)
            return "text", got.text
        opening = self._client.stream(case.endpoint, payload, deadline=case.deadline)
        async with opening as stream:
            reading = _READERS[case.way](stream)
            return stream.run(reading) if self._blocks else await reading

    async def _look_at_the_next(self):
        """Check that the next call gets its own answer."""
        await asyncio.wait_for(self._played.wait(), PATIENCE)
        if not (self._case.hurried and self._case.end == "keep"):
            await asyncio.sleep(0.002)  # the rest of the response arrives
        token = f"token {self._count}"
        payload = {"model": "next", "messages": [{"role": "user", "content": token}]}
        asking = self._do(self._client.request(CHAT, payload))
        got = await asyncio.wait_for(asking, DEADLINE + 1.0)
        assert token == got.text, "the answer to another call"

    def _look_at_error(self, case, error):
        assert error.attempts == 1
        assert "key-canary" not in f"{error!r}{error}"
        if isinstance(error, StreamBrokenError):
            assert case.wants_stream
        whole = case.meant.text is not None and not (case.cut or case.harm)
        assert not whole or case.end in ("reset", "trickle"), f"a whole answer failed: {error}"

    def _look_at_answer(self, case, kind, result):
        if kind == "dropped":
            return
        found = may_be(case.sent, case.endpoint)
        assert found, "an incomplete response counted as an answer"
        if kind in ("text", "deltas"):
            texts = {None, result}
            assert any(
                {one.text, one.deltas if case.wants_stream else one.text} & texts for one in found
            )
        if not case.harm and case.meant.text is not None and kind == "text":
            assert case.meant.text == result, "a part counted as the whole"

    # ------------------------------------------------------------ the server

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        self.open += 1
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer):
                    pass
        except asyncio.CancelledError:
            pass  # the rig is stopped
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        body = json.loads(await reader.readexactly(size))
        if body["model"] == "next":
            writer.write(_echo(body["messages"][0]["content"]))
            return True
        try:
            return await self._play(self._case, reader, writer)
        finally:
            self._played.set()

    async def _play(self, case, reader, writer):
        for piece in case.pieces():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02 if case.end == "trickle" else 0)
        if case.end == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        if case.end == "silence":
            self._played.set()  # otherwise the next call would wait for it
            await reader.read(1)
        return case.end in ("keep", "trickle")


async def _answer(stream):
    return "text", (await stream.answer()).text


async def _texts(stream):
    return "deltas", "".join([text async for text in stream.texts()])


async def _events(stream):
    async for event in stream:
        event.json()
    return "events", None


async def _raw(stream):
    return "raw", b"".join([part async for part in stream.raw()])


async def _dropped(stream):
    await anext(stream.raw(), None)
    return "dropped", None


_READERS = {
    "answer": _answer,
    "texts": _texts,
    "events": _events,
    "raw": _raw,
    "dropped": _dropped,
}


def _echo(token):
    message = {"message": {"content": token}, "finish_reason": "stop"}
    return answer(json.dumps({"choices": [message]}).encode())


class Footprint:
    """The file descriptors and the memory of a process at rest."""

    def __init__(self):
        gc.collect()
        self.files = len(list(Path("/dev/fd").iterdir()))
        statm = Path("/proc/self/statm")
        self.rss = (
            int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else 0
        )
