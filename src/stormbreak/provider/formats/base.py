"""Shared by all formats: a parsed request, the parts of its answer, refusals, streams, errors."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import msgspec

from stormbreak.provider.canned_answers import CannedAnswer, ToolCall
from stormbreak.provider.chance import mix
from stormbreak.provider.formats.json_text import json_for

# ---------------------------------------------------------------- text of answers
# Words drawn by the digest of the request; the prompt is never repeated.

_VOCABULARY = """
amber anchor basin beacon birch bridge calm canyon cedar cinder cliff cloud copper coral cove current
dawn delta drift dune ember estuary fern field fjord flint frost garden glacier granite grove harbour
haze heather horizon island juniper keel lagoon lantern ledge maple marsh meadow mist moss oak orchard
pebble pine prairie quarry reef ridge river sail shore slate spruce summit thicket tide valley willow
"""
_WORDS = _VOCABULARY.split()
_WORD_COUNT = 12

TOKENS = _WORD_COUNT + 2  # tokens of an answer by default


def text_for(digest: str, schema: Any = None) -> str:
    """Compose the answer to the request with this digest: prose, or JSON that fits a schema."""
    if schema is not None:
        return json_for(schema, int(digest, 16))
    bits = mix(int(digest, 16))
    words = [_WORDS[(bits >> (5 * place)) % len(_WORDS)] for place in range(_WORD_COUNT)]
    return f"Answer {digest}: {' '.join(words)}."


def pieces(text: str) -> list[str]:
    first, *rest = text.split(" ")
    return [first, *(f" {word}" for word in rest)]


class ToolUse(NamedTuple):
    """A call of a tool in an answer; `arguments` is JSON."""

    identity: str
    name: str
    arguments: str


class Choice(NamedTuple):
    """One choice of an answer. The text is empty if it only calls tools."""

    text: str
    reasoning: str = ""
    tool_uses: tuple[ToolUse, ...] = ()

    @property
    def tokens(self) -> int:
        """Its tokens: one per word, plus two."""
        parts = (self.text, self.reasoning, *(use.arguments for use in self.tool_uses))
        return 2 + sum(len(part.split()) for part in parts)


# ---------------------------------------------------------------- format interface

BORN = 1_700_000_000  # a fixed time of creation, for reproducible runs

encode = msgspec.json.Encoder().encode


class Refusal(NamedTuple):
    """A rejected request: type, code and param (the field) as in the OpenAI API, `metadata` as in OpenRouter's."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | int | None = None
    metadata: Mapping[str, str] | None = None
    param: str | None = None


class CacheWrites(NamedTuple):
    """Prompt tokens written to a cache: for five minutes, and for an hour."""

    short: int = 0
    hour: int = 0


class ParsedRequest(NamedTuple):
    """A parsed request: all that its answer depends on."""

    format: "Format"
    model: str
    digest: str  # 16 hexadecimal digits
    essence: bytes  # the body as canonical JSON, without delivery options
    payload: Mapping[str, Any]
    streamed: bool
    fills: bool = False  # its answer uses all tokens that the request allows
    schema: Any = None  # the answer must match it
    canned: CannedAnswer | None = None  # its answer; None: make one up
    empty: bool = False  # its answer has no choices

    @property
    def choices(self) -> list[Choice]:
        if self.empty:
            return []
        return [self._choice(place) for place in range(self.format.choice_count(self.payload))]

    def _choice(self, place: int) -> Choice:
        digest = f"{mix(self.key + place):016x}" if place else self.digest
        canned = self.canned
        if canned is None:
            return Choice(text_for(digest, self.schema))
        uses = tuple(
            ToolUse(f"{digest}{number}", call.name, self._arguments(call, number))
            for number, call in enumerate(canned.tool_calls)
        )
        text = canned.choices[place % len(canned.choices)] if canned.choices else canned.text
        if text is None:
            text = "" if uses else text_for(digest, self.schema)
        return Choice(text, canned.reasoning, uses)

    def _arguments(self, call: ToolCall, number: int) -> str:
        if call.arguments is not None:
            return encode(call.arguments).decode()
        return json_for(_tool_schema(self.payload, call.name), self.key + number)

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt, as a provider estimates them."""
        return len(self.essence) // 4 + 1

    @property
    def written(self) -> CacheWrites:
        return self.format.written(self.payload)

    @property
    def tokens(self) -> int:
        """Tokens that count against a limit."""
        return self.input_tokens + self._allowed

    @property
    def answer_tokens(self) -> int:
        """Tokens of the answer, reported and billed, within those that the request allows."""
        if self.fills:
            return self._allowed
        if self.canned is None:
            return min(self._allowed, TOKENS * self.format.choice_count(self.payload))
        return min(self._allowed, sum(choice.tokens for choice in self.choices))

    @property
    def _allowed(self) -> int:
        made = self.choices if self.canned else ()
        default = max((each.tokens for each in made), default=TOKENS)
        return self.format.output_tokens(self.payload, default)

    @property
    def key(self) -> int:
        return int(self.digest, 16)

    def __repr__(self) -> str:
        return f"ParsedRequest({self.digest})"


def _tool_schema(payload: Mapping[str, Any], name: str) -> Any:
    """Find the schema of a tool's arguments, in the format of each API; without one, any object fits."""
    found: Any = None
    tools = payload.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        described = tool.get("function", tool) if isinstance(tool, dict) else None
        if isinstance(described, dict) and described.get("name") == name:
            found = described.get("parameters", described.get("input_schema"))
    return found or {"type": "object"}


class Events(NamedTuple):
    """A streamed answer, event by event."""

    opening: list[bytes]  # no part of the answer yet
    output: list[bytes]  # the words
    finish: list[bytes]  # finish reason and usage
    end: list[bytes]  # the end marker

    def all(self) -> list[bytes]:
        return [*self.opening, *self.output, *self.finish, *self.end]


def whole_number(value: Any, default: int) -> int:
    """Return a whole number; `default` for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def count_texts(texts: Any) -> int:
    """Count prompts or inputs: a list of numbers is one, as tokens."""
    if not isinstance(texts, list) or all(isinstance(item, int) for item in texts):
        return 1
    return len(texts)


def invalid(field: str, what: str) -> Refusal:
    """Refuse a request because of one of its fields; `what` explains the problem."""
    return Refusal(400, f"'{field}' {what}", param=field)


def find_message_error(payload: Mapping[str, Any]) -> Refusal | None:
    messages = payload.get("messages")
    fits = isinstance(messages, list) and bool(messages)
    return None if fits else invalid("messages", "must be a list that is not empty")


_LATE_ERROR = b'{"error":{"message":"the upstream provider failed","code":502}}'


def openai_error(refusal: Refusal) -> bytes:
    fields: dict[str, Any] = {
        "message": refusal.message,
        "type": refusal.kind,
        "param": refusal.param,
        "code": refusal.code,
    }
    if refusal.metadata is not None:
        fields["metadata"] = refusal.metadata
    return encode({"error": fields})


class Format(NamedTuple):
    """One endpoint of the API.

    Attributes:
        body: encodes a plain answer.
        events: encodes a streamed answer; None if there is none.
        find_error: refuses a JSON object that names a model.
        output_tokens: tokens of the answer that count against a limit; a default for each choice if the body has none.
        error: encodes an error; that of OpenAI by default, as are the next two.
        late_error: the error inside a 200.
        late_event: the same as an event of a stream.
        demands: required headers.
        written: counts prompt tokens written to a cache.
        choice_count: the number of choices that a request asks for.
    """

    body: Callable[[ParsedRequest], bytes]
    events: Callable[[ParsedRequest], Events] | None = None
    find_error: Callable[[Mapping[str, Any]], Refusal | None] = find_message_error
    output_tokens: Callable[[Mapping[str, Any], int], int] = lambda _, __: 0
    error: Callable[[Refusal], bytes] = openai_error
    late_error: bytes = _LATE_ERROR
    late_event: bytes = b"data: %b\n\n" % _LATE_ERROR
    demands: tuple[bytes, ...] = ()
    written: Callable[[Mapping[str, Any]], CacheWrites] = lambda _: CacheWrites()
    choice_count: Callable[[Mapping[str, Any]], int] = lambda _: 1


# ---------------------------------------------------------------- named events

NamedEvent: TypeAlias = tuple[str, dict[str, Any]]  # the name of an event, and its other fields


def named_event(name: str, fields: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode(fields))


class Block(NamedTuple):
    """One part of a streamed answer."""

    opening: list[NamedEvent]
    output: list[NamedEvent]
    finish: list[NamedEvent]


def in_turn(blocks: Sequence[Block]) -> Block:
    """Join parts that are streamed one after the other."""
    if not blocks:
        return Block([], [], [])
    output = [*blocks[0].output]
    for before, after in pairwise(blocks):
        output += [*before.finish, *after.opening, *after.output]
    return Block(blocks[0].opening, output, blocks[-1].finish)
