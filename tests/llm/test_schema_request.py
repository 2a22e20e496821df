"""How a request asks each API for JSON of a schema."""

import json

import msgspec
from table_test import table_test

from stormbreak.llm.endpoints import Shape
from stormbreak.llm.schema_request import format_field, repaired, response_format, schema_for

HOTEL = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "stars": {"type": "integer", "minimum": 1}},
    "required": ["name", "stars"],
}
CLOSED = HOTEL | {"additionalProperties": False}
FORMAT = msgspec.Raw(b'{"type":"json_schema"}')


def test_objects_are_closed_and_nothing_else_changes():
    assert schema_for(HOTEL, Shape.CHAT) == CLOSED


def test_an_unsupported_rule_moves_into_the_description():
    closed = schema_for(HOTEL, Shape.MESSAGES)
    assert closed["properties"]["stars"] == {"type": "integer", "description": '{"minimum":1}'}
    long = {"type": "string", "minLength": 3, "description": "A name."}
    expected = {"type": "string", "description": 'A name. {"minLength":3}'}
    assert (
        schema_for(CLOSED | {"properties": {"name": long, "stars": {}}}, Shape.CHAT)["properties"][
            "name"
        ]
        == expected
    )


def test_nested_objects_are_closed():
    tree = {
        "type": "object",
        "properties": {"child": {"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "null"}]}},
        "required": ["child"],
        "$defs": {"leaf": HOTEL},
        "$schema": "https://json-schema.org/draft/2020-12/schema",
    }
    closed = schema_for(tree, Shape.RESPONSES)
    assert closed["$defs"]["leaf"] == CLOSED
    assert "$schema" not in closed


@table_test(
    "schema",
    [
        HOTEL | {"additionalProperties": {"type": "string"}},
        HOTEL | {"patternProperties": {"^x": {}}},
        HOTEL | {"not": {"required": ["x"]}},
        HOTEL | {"properties": {"name": True, "stars": {}}},
    ],
)
def test_a_schema_that_cannot_be_closed_is_not_strict_or_not_sent(schema):
    assert schema_for(schema, Shape.MESSAGES) is None
    assert response_format(schema, Shape.MESSAGES) is None
    asked = response_format(schema, Shape.CHAT)["json_schema"]
    assert asked == {"name": "answer", "strict": False, "schema": schema}


@table_test("schema", [HOTEL | {"required": ["name"]}, {"type": "array"}])
def test_optional_properties_are_not_strict_for_openai(schema):
    assert response_format(schema, Shape.CHAT)["json_schema"]["strict"] is False
    assert schema_for(schema, Shape.MESSAGES) is not None


TREE = {
    "type": "object",
    "properties": {"child": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["child"],
}


@table_test(
    "recursive",
    [
        TREE | {"$defs": {"node": TREE}},
        TREE | {"properties": {"child": {"$ref": "#"}}},
        TREE
        | {
            "$defs": {
                "node": {"$ref": "#/$defs/other"},
                "other": {"items": {"$ref": "#/$defs/node"}},
            }
        },
    ],
)
def test_anthropic_gets_no_recursive_schema(recursive):
    assert schema_for(recursive, Shape.MESSAGES) is None
    assert schema_for(recursive, Shape.CHAT) is not None
    assert schema_for(TREE | {"$defs": {"node": HOTEL}}, Shape.MESSAGES) is not None


def test_enum_values_of_several_parts_move_into_the_description():
    closed = schema_for({"enum": [[1], "a"]}, Shape.MESSAGES)
    assert closed == {"description": '{"enum":[[1],"a"]}'}
    assert schema_for({"enum": ["a", None]}, Shape.MESSAGES) == {"enum": ["a", None]}


def test_an_infinite_schema_is_not_sent():
    endless = {"type": "object", "properties": {}}
    endless["properties"]["self"] = endless
    endless["required"] = ["self"]
    assert schema_for(endless, Shape.CHAT) is None


def test_each_api_has_its_format_field():
    assert response_format(HOTEL, Shape.RESPONSES) == {
        "type": "json_schema",
        "name": "answer",
        "strict": True,
        "schema": CLOSED,
    }
    assert format_field(FORMAT, Shape.CHAT, {}) == {"response_format": FORMAT}
    assert format_field(FORMAT, Shape.RESPONSES, {}) == {"text": {"format": FORMAT}}
    own = {"output_config": msgspec.Raw(b'{"effort":"low"}')}
    assert format_field(FORMAT, Shape.MESSAGES, own) == {
        "output_config": {"effort": "low", "format": FORMAT}
    }


@table_test(
    ("shape", "own"),
    [
        (Shape.CHAT, {"response_format": b'{"type":"text"}'}),
        (Shape.RESPONSES, {"text": b'{"format":{"type":"text"}}'}),
        (Shape.MESSAGES, {"output_config": b'{"format":{}}'}),
        (Shape.RESPONSES, {"text": b"7"}),
    ],
)
def test_a_format_in_the_request_is_kept(shape, own):
    assert format_field(FORMAT, shape, {name: msgspec.Raw(raw) for name, raw in own.items()}) == {}


@table_test(
    ("body", "before"),
    [
        ({"input": "hi"}, [{"role": "user", "content": "hi"}]),
        ({"input": [{"role": "user", "content": "hi"}]}, [{"role": "user", "content": "hi"}]),
        ({"prompt": {"id": "p"}}, []),
    ],
)
def test_a_repair_continues_with_the_answer(body, before):
    again = repaired(
        json.dumps(body).encode(), Shape.RESPONSES, schema=b"{}", answer="prose", errors="no"
    )
    *turns, last = json.loads(again)["input"]
    assert turns == [*before, {"role": "assistant", "content": "prose"}]
    assert "Errors:\nno" in last["content"]
    assert "JSON schema:\n{}" in last["content"]


def test_a_repair_does_not_repeat_an_empty_answer():
    body = b'{"messages":[{"role":"user","content":"hi"}],"seed":7}'
    again = json.loads(repaired(body, Shape.CHAT, schema=b"{}", answer=" ", errors="no"))
    assert [turn["role"] for turn in again["messages"]] == ["user", "user"]
    assert again["seed"] == 7
