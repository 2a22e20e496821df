"""Structured answers from a real model, whose server rejects `json_schema` and has its own JSON format."""

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
OWN_FORMAT = {"type": "json_object", "schema": COLOUR}


async def test_a_server_without_json_schema_raises_server_error(model, client_of):
    async with client_of(model) as client:
        with pytest.raises(ServerError) as caught:
            await client.chat(SAY, schema=COLOUR, max_tokens=30)
    assert caught.value.status == 500
    assert KEY not in str(caught.value)


async def test_a_given_response_format_is_sent_and_the_answer_is_checked(model, client_of):
    async with client_of(model) as client:
        answer = await client.chat(
            SAY, schema=COLOUR, response_format=OWN_FORMAT, max_tokens=60, temperature=0
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
