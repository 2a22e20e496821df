"""Ask an API for JSON of a schema, and ask a model to repair an answer that does not fit.

The APIs accept only a part of JSON Schema and refuse the rest. So they get a copy of the schema: its objects allow no
other properties, and unsupported rules become words in the description. The answer is checked against the schema
itself. If no such copy exists, OpenAI's API gets the schema as a hint (`strict` is false), and Anthropic's gets none.
Sources: the helpers of the SDKs openai 3.57 (`lib/_pydantic.py`) and anthropic 2.14 (`lib/_parse/_transform.py`).
"""

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

import msgspec

from stormbreak.llm.endpoints import Shape

NAME = "answer"  # name of the format, which OpenAI's API requires

UNASKED = frozenset({"deepseek"})  # providers whose chat completions refuse a JSON schema
CHECKED = frozenset({Shape.CHAT, Shape.RESPONSES, Shape.MESSAGES})
"""Shapes whose answers have a text that can be checked."""

_FIELDS = {Shape.CHAT: "response_format", Shape.RESPONSES: "text", Shape.MESSAGES: "output_config"}

# ---------------------------------------------------------------- what each API takes

_SHARED = frozenset(
    {
        "$ref", "$defs", "definitions", "type", "enum", "const", "properties", "required", "additionalProperties", "items", "anyOf",
        "title", "description",
    }
)  # fmt: skip
_OPENAI = _SHARED | {
    "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems",
    "maxItems",
}  # fmt: skip
_ANTHROPIC = _SHARED | {"allOf"}
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
)
_BESIDE_REF = frozenset({"$ref", "$defs", "title", "description", "default"})
_DROPPED = frozenset({"$schema", "$id", "$comment", "default", "examples"})  # these are not rules
_OPENING = frozenset(
    {
        "patternProperties", "propertyNames", "unevaluatedProperties", "not", "if", "dependentSchemas", "prefixItems",
        "$dynamicRef", "allOf",
    }
)  # fmt: skip
"""Keywords that cannot be left out: without them other values would fit."""

_DEFINITIONS = frozenset({"$defs", "definitions"})
_BY_NAME = frozenset({"properties", "$defs", "definitions"})
_LISTS = frozenset({"anyOf", "oneOf", "allOf"})


class _UnfitError(Exception):
    """The schema cannot be expressed in the part of JSON Schema that an API accepts."""


def schema_for(schema: Mapping[str, Any], shape: Shape) -> dict[str, Any] | None:
    """Return a copy of a schema that an API accepts; None if there is none.

    OpenAI's API needs an object whose properties are all required; Anthropic's does not support recursion.
    """
    strict = shape is not Shape.MESSAGES
    is_object = schema.get("type") == "object" and "anyOf" not in schema
    if not is_object if strict else _is_recursive(schema):
        return None
    try:
        return _Closing(_OPENAI if strict else _ANTHROPIC, all_required=strict).copy(schema)
    except (_UnfitError, RecursionError):
        return None


def _is_recursive(schema: Mapping[str, Any]) -> bool:
    """Whether a part of a schema refers to itself, directly or through others."""
    try:
        graph = {"": _references(schema)}
        for name in ("$defs", "definitions"):
            graph |= {key: _references(part) for key, part in schema.get(name, {}).items()}
        TopologicalSorter(graph).prepare()
    except (CycleError, RecursionError, AttributeError):
        return True
    return False


def _references(part: object) -> set[str]:
    """Return the names of the parts that this part refers to; "" is the whole schema."""
    if isinstance(part, Mapping):
        own = {part["$ref"].rpartition("/")[2].removeprefix("#")} if "$ref" in part else set()
        return own.union(
            *(_references(each) for key, each in part.items() if key not in _DEFINITIONS)
        )
    if isinstance(part, list):
        return set[str]().union(*map(_references, part))
    return set()


class _Closing:
    """Copies a schema with the keywords that an API supports."""

    def __init__(self, known: frozenset[str], *, all_required: bool) -> None:
        self._known = known
        self._all_required = all_required

    def copy(self, schema: object) -> dict[str, Any]:
        """Copy a schema and its subschemas; raise _UnfitError."""
        if not isinstance(schema, Mapping) or (
            schema.keys() & (_OPENING - self._known)
            or ("$ref" in schema and schema.keys() - _BESIDE_REF)
            or ("anyOf" in schema and "oneOf" in schema)
        ):
            raise _UnfitError
        if "$ref" in schema:
            schema = {key: schema[key] for key in ("$ref", "$defs") if key in schema}
        closed: dict[str, Any] = {}
        words: dict[str, Any] = {}
        for key, value in schema.items():
            if self._is_known(key, value):
                closed["anyOf" if key == "oneOf" else key] = self._value(key, value)
            elif key not in _DROPPED:
                words[key] = value
        if schema.get("type") == "object" or "properties" in schema:
            self._close(closed)
        if words:
            rules = msgspec.json.encode(words).decode()
            closed["description"] = f"{closed.get('description', '')} {rules}".strip()
        return closed

    def _is_known(self, key: str, value: Any) -> bool:
        if key in ("enum", "const"):
            values = value if key == "enum" and isinstance(value, list) else [value]
            return not any(isinstance(each, list | dict) for each in values)
        return key in self._known or key == "oneOf" or (key == "format" and value in _FORMATS)

    def _value(self, key: str, value: Any) -> Any:
        if key in _BY_NAME and isinstance(value, Mapping):
            return {name: self.copy(each) for name, each in value.items()}
        if key in _LISTS and isinstance(value, list):
            return [self.copy(each) for each in value]
        return self.copy(value) if key == "items" else value

    def _close(self, closed: dict[str, Any]) -> None:
        """Allow no other properties; raise if the schema needs them."""
        if closed.setdefault("additionalProperties", False) is not False:
            raise _UnfitError
        properties = closed.setdefault("properties", {})
        if self._all_required and set(closed.get("required", ())) != set(properties):
            raise _UnfitError


# ---------------------------------------------------------------- fields of a request


def response_format(schema: Mapping[str, Any], shape: Shape) -> dict[str, Any] | None:
    """Return the response format for a request; None if the API cannot be asked for this schema."""
    closed = schema_for(schema, shape)
    if shape is Shape.MESSAGES:
        return None if closed is None else {"type": "json_schema", "schema": closed}
    named = {
        "name": NAME,
        "strict": closed is not None,
        "schema": dict(schema) if closed is None else closed,
    }
    if shape is Shape.CHAT:
        return {"type": "json_schema", "json_schema": named}
    return {"type": "json_schema", **named}


def format_field(
    format_: msgspec.Raw, shape: Shape, own: Mapping[str, msgspec.Raw]
) -> dict[str, Any]:
    """Return the field that asks for a format; empty if the request's `own` fields already name one."""
    field = _FIELDS[shape]
    if shape is Shape.CHAT:
        return {} if field in own else {field: format_}
    given = msgspec.json.decode(own[field]) if field in own else {}
    if not isinstance(given, dict) or "format" in given:
        return {}
    return {field: {**given, "format": format_}}


def without_format(body: bytes) -> bytes:
    """Return the body of a chat completion without its format."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    del fields[_FIELDS[Shape.CHAT]]
    return msgspec.json.encode(fields)


# ---------------------------------------------------------------- repairs


def repaired(body: bytes, shape: Shape, *, schema: bytes, answer: str, errors: str) -> bytes:
    """Return a request that continues after an answer that does not fit, and asks for one that fits."""
    fields: dict[str, msgspec.Raw] = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    request = {
        "role": "user",
        "content": "Your answer does not fit the JSON schema below. Answer again, with JSON that fits it and nothing"
        f" else.\n\nErrors:\n{errors}\n\nJSON schema:\n{schema.decode()}",
    }
    more = [{"role": "assistant", "content": answer}] if answer.strip() else []
    name = "input" if shape is Shape.RESPONSES else "messages"
    turns = msgspec.json.decode(fields[name]) if name in fields else []
    if isinstance(turns, str):
        turns = [{"role": "user", "content": turns}]
    return msgspec.json.encode({**fields, name: [*turns, *more, request]})
