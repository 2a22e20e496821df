"""A response header with non-ASCII bytes, such as a file name, raised an error in the HTTP library, and the paid answer
was lost.
"""

from importlib import import_module

import pytest
from sdk_clients import QUICK, SAY
from sockets import answer, served

PAYLOAD = {"model": "m", "messages": SAY}
NAMES = b"x-name: caf\xc3\xa9\r\nx-old-name: caf\xe9\r\n"
ODD = answer().replace(b"content-type", NAMES + b"content-type")
JSON = {"accept": "application/json"}


@pytest.mark.parametrize("inner", [False, True], ids=["own", "inner"])
@pytest.mark.parametrize("name", ["httpx2", "httpx"])
async def test_a_header_with_non_ascii_bytes_is_passed_through(name, inner):
    lib, ours = import_module(name), import_module(f"stormbreak.{name}")
    transport = ours.AsyncTransport(QUICK, inner=lib.AsyncHTTPTransport() if inner else None)
    async with (
        served(ODD) as server,
        lib.AsyncClient(transport=transport, base_url=server.base_url) as client,
    ):
        sent = {b"x-mine": b"caf\xc3\xa9"}
        came = [
            await client.post("chat/completions", json=PAYLOAD, headers=sent),
            await client.get("models", headers=JSON),
            await client.get("files/f/content"),
        ]
    for response in came:
        raw = {key.lower(): value for key, value in response.headers.raw}
        assert raw[b"x-name"] == b"caf\xc3\xa9"
        assert raw[b"x-old-name"] == b"caf\xe9"
    assert server.requests[0].headers["x-mine"] == "café"
