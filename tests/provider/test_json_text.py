"""The provider answers with JSON that fits the schema of the request."""

import json

import jsonschema_rs
import pytest
from table_test import table_test

from stormbreak import AsyncClient
from stormbreak.provider.formats.json_text import json_for
from stormbreak.testing import answer_text, serve

from .conftest import CHAT

TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 30, "maxLength": 40},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["name"],
        }
    },
}
SCHEMAS = [
    {"type": "object"},
    {"enum": ["a", 1, None]},
    {"const": {"a": [1]}},
    {"anyOf": [{"type": "integer", "minimum": 5}, {"type": "null"}]},
    {"type": ["string", "null"]},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 3},
    {"type": "number", "exclusiveMinimum": 1.5},
    {"type": "integer", "maximum": -3},
    {"type": "integer", "multipleOf": 7, "minimum": 10},
    {"type": "string", "format": "date"},
    TREE,
]


@table_test("schema", SCHEMAS)
@table_test("key", range(5))
def test_generated_json_fits_its_schema(schema, key):
    value = json.loads(json_for(schema, key))
    jsonschema_rs.validate(schema, value, validate_formats=True)


ASKING = {
    "chat/completions": CHAT | {"response_format": {"type": "json_schema", "json_schema": {"schema": TREE}}},
    "responses": {"model": "m", "input": "hi", "text": {"format": {"schema": TREE}}},
    "messages": CHAT | {"max_tokens": 9, "output_config": {"format": {"schema": TREE}}},
}  # fmt: skip


@pytest.mark.parametrize("endpoint", ASKING)
async def test_each_api_gets_json_for_the_schema_of_its_request(endpoint):
    with serve("bench") as provider:
        async with AsyncClient(base_url=provider.base_url) as client:
            plain = await client.request(endpoint, ASKING[endpoint])
            streamed = await client.request(endpoint, ASKING[endpoint] | {"stream": True})
    assert plain.text == streamed.text == answer_text(ASKING[endpoint])
    jsonschema_rs.validate(TREE, json.loads(plain.text))
