"""Structured answers from a real model, whose server fails at `json_schema` and has words of its own for JSON."""

import pytest
from model_server import KEY

from stormbreak.errors import SchemaMismatchError, ServerError

pytestmark = pytest.mark.real

COLOUR = {
    "type": "object",
    "properties": {"colour": {"type": "string"}},
    "required": ["colour"],
}
SAY = [{"role": "user", "content": 'Name a colour as JSON, like {"colour": "red"}.'}]
OWN_WORDS = {"type": "json_object", "schema": COLOUR}


async def test_a_server_that_cannot_be_asked(model, client_of):
    async with client_of(model) as client:
        with pytest.raises(ServerError) as caught:
            await client.chat(SAY, schema=COLOUR, max_tokens=30)
    assert caught.value.status == 500
    assert KEY not in str(caught.value)


async def test_the_format_of_the_request_stays_and_the_answer_is_checked(model, client_of):
    async with client_of(model) as client:
        answer = await client.chat(
            SAY, schema=COLOUR, response_format=OWN_WORDS, max_tokens=60, temperature=0
        )
        assert answer.parsed["colour"]

        with pytest.raises(SchemaMismatchError) as caught:
            await client.chat(
                [{"role": "user", "content": "Tell me a story."}],
                schema=COLOUR,
                response_format={"type": "text"},
                max_tokens=200,
                stop=["."],
            )
    assert caught.value.attempts == 3
    assert caught.value.ended.maybe_processed == 3
