"""Uploads that pass through: their Content-Length is enforced, and exceptions of their bodies are raised."""

import asyncio
import socket
from importlib import import_module
from types import SimpleNamespace

import pytest
from sdk_clients import QUICK
from sockets import answer, failing, served

MINE = KeyError("mine")


@pytest.fixture(params=["awaits", "blocks"])
def upload(lib, request):
    """Send pieces, and raise any exception among them; return the response once the body is closed."""
    ours = import_module(f"stormbreak.{lib.__name__}")
    left = []

    def blocks(pieces):
        try:
            for piece in pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            left.append(True)

    async def awaits(pieces):
        try:
            for piece in pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            left.append(True)

    def at_once(url, pieces, headers):
        with lib.Client(transport=ours.Transport(QUICK), timeout=10) as http:
            return http.post(url, content=blocks(pieces), headers=headers)

    async def send(server, *pieces, length=None, leaves=lib.__name__ == "httpx2"):
        headers = {} if length is None else {"content-length": str(length)}
        url = f"{server.base_url}/files"
        try:
            if request.param == "blocks":
                return await asyncio.to_thread(at_once, url, pieces, headers)
            async with lib.AsyncClient(transport=ours.AsyncTransport(QUICK), timeout=10) as http:
                return await http.post(url, content=awaits(pieces), headers=headers)
        finally:
            async with asyncio.timeout(30):
                while leaves and not left:  # noqa: ASYNC110 - waits for the garbage collector
                    await asyncio.sleep(0.005)

    return send


@pytest.mark.parametrize("length", [None, 6])
async def test_an_exception_of_the_body_is_raised(upload, length):
    async with served() as server:
        with pytest.raises(KeyError) as caught:
            await upload(server, b"abc", MINE, length=length)
        await server.all_closed()
    assert caught.value is MINE
    assert server.requests == [] or length is None


@pytest.mark.parametrize(
    ("pieces", "wrong"),
    [
        ((b"abc",), "shorter"),
        ((), "shorter"),
        ((b"abc", b"defg"), "longer"),
        ((b"abcdefg",), "longer"),
        ((b"abcdef", b"", b"g"), "longer"),
    ],
)
async def test_a_body_that_differs_from_its_content_length_is_rejected(lib, upload, pieces, wrong):
    async with served() as server:
        with pytest.raises(
            lib.LocalProtocolError, match=f"the body is {wrong} than its Content-Length"
        ):
            await upload(server, *pieces, length=6)
        await server.all_closed()
    assert [each.body for each in server.requests] in ([], [b"abcdef"])


async def test_an_exception_after_the_last_piece_is_raised(upload):
    async with served() as server:
        with pytest.raises(KeyError):
            await upload(server, b"abcdef", MINE, length=6)


async def test_a_body_of_its_content_length_is_sent(upload):
    async with served(answer(b"{}")) as server:
        response = await upload(server, b"abc", b"", b"def", length=6, leaves=True)
    assert (response.status_code, server.requests[0].body) == (200, b"abcdef")


async def test_a_413_before_the_end_of_the_body_is_returned(upload):
    refusal = failing(413)
    async with served(refusal) as server:
        response = await upload(server, b"abc", *[b"x" * 65536] * 100)
    assert response.status_code == 413


async def test_a_413_is_returned_if_the_server_closes_before_reading_the_body(upload):
    """The rest of the upload meets a reset, after the refusal."""

    def refuse(listener):
        client, _ = listener.accept()
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(65536)
            client.sendall(failing(413))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = asyncio.create_task(asyncio.to_thread(refuse, listener))
        server = SimpleNamespace(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        response = await upload(server, b"abc", *[b"x" * 65536] * 100)
        await refusing
    assert response.status_code == 413
