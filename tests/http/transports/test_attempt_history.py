"""`explain` finds the history on an object, on the response of an exception, and along its causes."""

import httpx2
import pytest
from sdk_clients import QUICK, SAY
from sockets import served
from table_test import table_test

from stormbreak import explain
from stormbreak.drivers.explain import KEPT_AS, AttemptHistory
from stormbreak.httpx2 import AsyncTransport
from stormbreak.types import CallResult, Outcome, Target, Verdict

HISTORY = AttemptHistory(
    Target("p", "m", "0123abcd"), CallResult(Outcome(Verdict.RESET), attempts=2)
)
LINE = "p/m#0123abcd: reset after 2 attempt(s), 0.00 s waited"


def behind(links):
    """Return an exception with a history, `links` causes away."""
    error = ValueError("innermost")
    setattr(error, KEPT_AS, HISTORY)
    for _ in range(links):
        outer = ValueError("outer")
        outer.__cause__, error = error, outer
    return error


@table_test(("links", "explanation"), [(0, LINE), (10, LINE), (40, "")])
def test_explain_follows_causes_up_to_a_bound(links, explanation):
    assert explain(behind(links)) == explanation


def test_explain_returns_nothing_for_unknown_objects():
    circular = ValueError("circular")
    circular.__context__ = other = KeyError()
    other.__cause__ = circular
    for unknown in (None, "text", circular, httpx2.Response(200)):
        assert explain(unknown) == ""


async def test_a_response_that_passed_through_has_no_history():
    async with served() as server, httpx2.AsyncClient(transport=AsyncTransport(QUICK)) as client:
        assert explain(await client.get(f"{server.base_url}/files/f/content")) == ""


async def test_a_request_that_cannot_be_sent_is_tried_once():
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
