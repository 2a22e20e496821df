"""JSON that fits a schema: the answer to a request with a schema.

It supports the keywords that APIs accept for structured outputs, except `pattern`. Values are drawn by the digest of
the request.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from stormbreak.provider.chance import mix

_DEPTH = 8  # levels, after which optional parts are left out
_FORMATS: Mapping[str, str] = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "reef@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "uri": "https://example.com/reef",
}


def json_for(schema: Any, key: int) -> str:
    """Write JSON that fits `schema`; `key` is a random number."""
    return msgspec.json.encode(_Writer(schema, key).value(schema, 0)).decode()


class _Writer:
    def __init__(self, root: Any, key: int) -> None:
        self._root = root
        self._bits = mix(key)

    def _draw(self, count: int) -> int:
        self._bits = mix(self._bits)
        return self._bits % max(1, count)

    def value(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, dict):
            return None
        if "$ref" in schema:
            return self.value(self._target(str(schema["$ref"])), depth + 1)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][self._draw(len(schema["enum"]))]
        for choices in (schema.get("anyOf"), schema.get("oneOf")):
            if choices:
                return self.value(
                    choices[-1 if depth > _DEPTH else self._draw(len(choices))], depth
                )
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = kind[self._draw(len(kind))]
        return self._of_type(kind, schema, depth)

    def _of_type(self, kind: Any, schema: dict[str, Any], depth: int) -> Any:
        match kind:
            case "object":
                names = schema.get("properties", {})
                wanted = schema.get("required", ()) if depth > _DEPTH else names
                return {name: self.value(names.get(name), depth + 1) for name in wanted}
            case "array":
                least = schema.get("minItems", 0 if depth > _DEPTH else 1)
                return [self.value(schema.get("items"), depth + 1) for _ in range(least)]
            case "integer" | "number":
                return self._number(schema)
            case "boolean":
                return bool(self._draw(2))
            case "null":
                return None
        text = _FORMATS.get(schema.get("format", ""), "reef " * (1 + self._draw(3))).strip()
        return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]

    def _number(self, schema: dict[str, Any]) -> Any:
        """The lowest multiple in the range, or a random number if the range is open."""
        step = schema.get("multipleOf", 1)
        least = schema.get("minimum", schema.get("exclusiveMinimum"))
        if least is None:
            most = schema.get("maximum", schema.get("exclusiveMaximum"))
            return step * self._draw(100) if most is None else (most // step - 1) * step
        return (least // step + 1) * step if least % step or "minimum" not in schema else least

    def _target(self, reference: str) -> Any:
        found = self._root
        for part in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
            found = found.get(part) if isinstance(found, dict) else None
        return found
