"""An interrupt that came just before blocking work was lost: the thread blocked until its timeout."""

import asyncio

import httpx2
import pytest
from clients import ONCE
from gateways import CHAT
from streamed import chat

from stormbreak.drivers.blocking import run, running_strand
from stormbreak.http.transports import wrapped_connection
from stormbreak.http.transports.interruptible import interruptible
from stormbreak.httpx2 import Transport


def test_an_interrupted_coroutine_begins_no_blocking_work():
    begun = []

    async def interrupted():
        running_strand().interrupt()
        interruptible(lambda: begun.append(True))

    with pytest.raises(asyncio.CancelledError):
        run(interrupted())
    assert begun == []


class Stream(httpx2.SyncByteStream):
    def __init__(self):
        self.read = 0

    def __iter__(self):
        for event in chat(["Hello", " there"]):
            self.read += 1
            yield event


class Inner(httpx2.BaseTransport):
    def __init__(self, stream):
        self._stream = stream

    def handle_request(self, request):
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, stream=self._stream)


def test_a_stream_that_is_closed_just_before_a_read_is_not_read(monkeypatch):
    body = Stream()
    transport = Transport(ONCE, inner=Inner(body))

    def closed_first():
        transport.close()
        return running_strand()

    with httpx2.Client(transport=transport) as client:
        request = client.build_request(
            "POST", "http://127.0.0.1/v1/chat/completions", json={**CHAT, "stream": True}
        )
        pieces = client.send(request, stream=True).iter_raw()
        assert b"assistant" in next(pieces)
        read = body.read
        monkeypatch.setattr(wrapped_connection, "running_strand", closed_first)
        with pytest.raises(httpx2.RemoteProtocolError, match="the client was closed"):
            list(pieces)
    assert body.read == read
