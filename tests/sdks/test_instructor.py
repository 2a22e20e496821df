"""Instructor: answers that fit its model, which the embedded provider cannot give, and its own retries."""

import json

import pytest
import tenacity
from instructor.core import InstructorRetryException
from pydantic import ValidationError
from recipes import RECIPES
from sockets import answer, failing, served

pytestmark = pytest.mark.sdks("instructor")
RECIPE = next(each for each in RECIPES if each.name == "instructor")


def saying(**city):
    """An answer that calls the tool which stands for the model."""
    function = {"name": "City", "arguments": json.dumps(city)}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    common = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    return answer(json.dumps(common | {"choices": [choice]}).encode())


LYON = saying(name="Lyon", country="France")
THROTTLED = failing(429, retry_after_ms=500)


@pytest.mark.parametrize("way", ["ask", "ask_blocking"])
async def test_a_call_succeeds_after_a_503_and_two_429s(way):
    async with (
        served(failing(503), THROTTLED, THROTTLED, LYON) as server,
        RECIPE.over(server.base_url) as running,
    ):
        city = await running.ask(way)
    assert (city.name, city.country) == ("Lyon", "France")
    assert len(server.requests) == 1 + 3


async def test_an_answer_that_does_not_fit_the_model_is_requested_again():
    async with (
        served(saying(name="Lyon"), LYON) as server,
        RECIPE.over(server.base_url) as running,
    ):
        assert (await running.ask("ask")).country == "France"
        keys = {request.headers["idempotency-key"] for request in server.requests}
    assert len(keys) == 2  # calls of their own


@pytest.mark.parametrize("narrow", [False, True])
async def test_max_retries_multiplies_requests_unless_narrowed_to_validation(
    stormbreak_provider, narrow
):
    provider = stormbreak_provider('[[faults]]\nkind = "quota"\n')
    only = {"retry": tenacity.retry_if_exception_type(ValidationError)} if narrow else {}
    again = tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(2), **only)
    async with RECIPE.over(provider.base_url) as running:
        with pytest.raises(InstructorRetryException):
            await running.client.create(
                model="m",
                response_model=running.City,
                messages=[{"role": "user", "content": "Hello?"}],
                max_retries=again,
            )
    assert provider.stats()["arrivals"] == (1 if narrow else 2)


async def test_a_partial_stream_completes_after_a_429():
    pieces = ['{"name": "Ly', 'on", "country"', ': "France"}']
    events = [
        {
            "tool_calls": [
                {"index": 0, "id": "call_1", "function": {"name": "City", "arguments": ""}}
            ]
        },
        *({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces),
    ]
    common = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [{"index": 0, "delta": delta, "finish_reason": None} for delta in events]
    chunks.append({"index": 0, "delta": {}, "finish_reason": "tool_calls"})
    body = b"".join(
        b"data: " + json.dumps(common | {"choices": [chunk]}).encode() + b"\n\n" for chunk in chunks
    )
    stream = answer(body + b"data: [DONE]\n\n", content_type="text/event-stream")
    cities = []
    async with served(THROTTLED, stream) as server, RECIPE.over(server.base_url) as running:
        await running.read("stream", cities)
    assert cities[-1].country == "France"
    assert len(server.requests) == 2
