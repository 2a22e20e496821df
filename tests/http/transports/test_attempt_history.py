"""What `explain` finds, and where: on a thing itself, on the response of an exception, behind its cause."""

import httpx2
import pytest
from doors import QUICK, SAY
from sockets import served
from table_test import table_test

from stormbreak import explain
from stormbreak.drivers.explain import KEPT_AS, AttemptHistory
from stormbreak.httpx2 import AsyncTransport
from stormbreak.types import CallResult, Outcome, Target, Verdict

STORY = AttemptHistory(Target("p", "m", "0123abcd"), CallResult(Outcome(Verdict.RESET), attempts=2))
LINE = "p/m#0123abcd: reset after 2 attempt(s), 0.00 s waited"


def behind(links):
    """An exception with a story, that many causes away."""
    error = ValueError("innermost")
    setattr(error, KEPT_AS, STORY)
    for _ in range(links):
        outer = ValueError("outer")
        outer.__cause__, error = error, outer
    return error


@table_test(("links", "told"), [(0, LINE), (10, LINE), (40, "")])
def test_it_is_found_behind_so_many_causes(links, told):
    assert explain(behind(links)) == told


def test_of_what_nobody_knows_nothing_is_told():
    turns = ValueError("turns in a circle")
    turns.__context__ = other = KeyError()
    other.__cause__ = turns
    for unknown in (None, "text", turns, httpx2.Response(200)):
        assert explain(unknown) == ""


async def test_what_passed_has_none():
    async with served() as server, httpx2.AsyncClient(transport=AsyncTransport(QUICK)) as client:
        assert explain(await client.get(f"{server.base_url}/files/f/content")) == ""


async def test_what_cannot_be_sent_is_tried_once():
    seen = []

    def refuse(request):
        seen.append(request)
        raise httpx2.LocalProtocolError("no such header")

    inner = httpx2.MockTransport(refuse)
    async with httpx2.AsyncClient(transport=AsyncTransport(QUICK, inner=inner)) as client:
        payload = {"model": "m", "messages": SAY}
        with pytest.raises(httpx2.RemoteProtocolError) as caught:
            await client.post("http://127.0.0.1/v1/chat/completions", json=payload)
    assert len(seen) == 1
    assert "request cannot be sent" in explain(caught.value)
