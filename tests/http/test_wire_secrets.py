"""Outcomes and exceptions of a connection show no key and no text."""

import os
import traceback

import pytest
from sockets import CHUNKED, HALF, End, answer, served

from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.types import Outcome


def reachable(thing):
    """Return every object reachable from an exception or outcome, without frames."""
    seen, left = {}, [thing]
    while left:
        each = left.pop()
        if id(each) in seen or isinstance(each, type | type(os)):
            continue
        seen[id(each)] = each
        if isinstance(each, BaseException):
            left += [each.args, each.__cause__, each.__context__]
            assert each.__traceback__ is None or not isinstance(thing, Outcome)
        if isinstance(each, dict):
            left += [*each, *each.values()]
        elif isinstance(each, list | tuple | set | frozenset):
            left += each
        left.append(getattr(each, "__dict__", None))
    return seen.values()


@pytest.mark.parametrize(
    "script",
    [
        End.CLOSE,
        End.RESET,
        [HALF, End.CLOSE],
        [answer(x_echo="key-canary")[:-10], End.RESET],
        [b"key-canary key-canary\r\n\r\n", End.CLOSE],
        [b"HTTP/1.1 200 OK\r\nx-echo: key-canary\r\n", End.CLOSE],
        [b"HTTP/1.1 200 OK\r\nkey-canary\r\n\r\n", End.CLOSE],
        [CHUNKED, b"key-canary\r\n", End.CLOSE],
        answer(b"key-canary", content_encoding="gzip"),
        End.HANG,
    ],
)
async def test_no_outcome_holds_the_key(ask, script):
    async with served(script) as server:
        got = await ask(server, idle_timeout=0.1)
    assert isinstance(got, Outcome)
    for each in reachable(got):
        assert "canary" not in repr(each)
    if got.error is not None:
        assert "canary" not in "".join(traceback.format_exception(got.error))


async def test_the_repr_of_request_and_response_shows_neither_key_nor_text():
    request = PreparedRequest("http://h/v1", {"Authorization": "canary"}, b"canary")
    assert repr(request) == "PreparedRequest('http://h/v1', 6 bytes)"
    assert repr(HttpResponse(200, {"x": "canary"}, b"canary", 0)) == "HttpResponse(200, 6 bytes)"
