"""Turn a payload into a request: encode it once, read its fields once, prepare it once for each target."""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from math import isfinite
from os import urandom
from typing import Any, TypeAlias

import msgspec

from stormbreak.errors import ConfigurationError
from stormbreak.http.answer_schema import AnswerSchema, Misfit, Repairs
from stormbreak.http.endpoint import Origin, Passed
from stormbreak.http.local_answers import LocalRequest
from stormbreak.http.prepared_request import CONNECT_TIMEOUT, IDEMPOTENCY_KEY, PreparedRequest
from stormbreak.http.response import Response
from stormbreak.http.routing import Route
from stormbreak.llm.endpoints import FREE, Shape, is_fim, path_of, shape_of
from stormbreak.llm.finish_reasons import FinishMeaning, reason_of
from stormbreak.llm.providers import VERSION
from stormbreak.llm.schema_request import CHECKED, UNASKED, format_field, repaired, without_format
from stormbreak.llm.stream_reader import FORMATS
from stormbreak.llm.surrogates import UNREADABLE, decoded
from stormbreak.llm.tokens import bound_of, estimate, is_bounded, most_of, unbounded_by
from stormbreak.types import VERDICT_OK, Outcome, Repair, Target, Usage, Verdict

NO_BOUND = "nothing in the request bounds what it costs, such as max_tokens"
"""Why a request has no token bound, if only a limit of its output is missing."""

NO_MODEL = "-"  # the model of targets of lookups
REPORTS_USAGE = frozenset({Shape.CHAT, Shape.COMPLETION})
"""Formats that report the usage of a stream only on request."""

_MAX_COMPLETION_TOKENS = frozenset({"openai", "azure"})
"""Providers whose newer models reject max_tokens."""

_WITHOUT_KEY = frozenset({"Accept", IDEMPOTENCY_KEY, "Content-Type", "Content-Length", *VERSION})
ACCEPT_ANY = "application/json, */*;q=0.5"  # for an endpoint that may return a file
_ACCEPT_STREAM: Passed = (("Accept", "text/event-stream"),)
_ACCEPT_JSON: Passed = (("Accept", "application/json"),)
_ACCEPT_ANY: Passed = (("Accept", ACCEPT_ANY),)

# ---------------------------------------------------------------- the fields of a body


class RequestFields(msgspec.Struct):
    """The fields of a request body that the client uses. Its repr shows no text."""

    model: str
    stream: bool | None = None
    n: int | None = None
    best_of: int | None = None
    stream_options: Any = None
    modalities: Any = None
    audio: Any = None
    deferred: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None

    def output_limit(self, shape: Shape) -> int | None:
        """Return the maximum tokens of one answer, if the body has it in a field that the endpoint reads.

        With two such fields the larger number counts, since some servers know only one of them. If either is not a
        count, there is no bound: some servers read "100" as 100, and -1 as no limit.
        """
        limits = [getattr(self, name) for name in _limit_names(shape)]
        given = [limit for limit in limits if limit is not None]
        return max(given) if given and all(map(is_bounded, given)) else None

    @property
    def choices(self) -> int:
        """The number of generated and billed answers; of `best_of` only the best `n` are returned."""
        return max(self.n or 1, self.best_of or 1)

    @property
    def may_stream(self) -> bool:
        """Whether the same answer can come as a stream: the body does not choose the form.

        ``"stream": false`` chooses it, and audio has other formats in a stream.
        """
        fields = (self.stream, self.stream_options, self.modalities, self.audio)
        return all(each is None for each in fields)

    __rich_repr__ = None  # type: ignore[assignment]  # rich would show the fields

    def __repr__(self) -> str:
        return f"RequestFields({self.stream=}, {self.n=})"


def _limit_names(shape: Shape) -> tuple[str, ...]:
    """Return the fields with the maximum tokens of one answer."""
    match shape:
        case Shape.RESPONSES:
            return ("max_output_tokens",)
        case Shape.CHAT:
            return ("max_completion_tokens", "max_tokens")
        case _:
            return ("max_tokens",)


class _Embedded(msgspec.Struct):
    input: str | list[msgspec.Raw]


class _Prompted(msgspec.Struct):
    prompt: str | list[msgspec.Raw] | None = None


_DECODE_FIELDS = msgspec.json.Decoder(RequestFields).decode
_DECODE_EMBEDDED = msgspec.json.Decoder(_Embedded).decode
_DECODE_PROMPTED = msgspec.json.Decoder(_Prompted).decode
Parts: TypeAlias = dict[str, msgspec.Raw]  # the fields of a body, each as it was written

decode_parts = msgspec.json.Decoder(Parts).decode
_HALF_CHARACTER = "holds half a character (a lone surrogate)"
_BUILTIN = frozenset({str, bool, int, float, list, dict, type(None)})
FIELD_NAMES = frozenset(RequestFields.__struct_fields__)


def read_fields(body: bytes) -> RequestFields:
    """Read the fields of a body; raise ConfigurationError if it is not a JSON object or has no model."""
    try:
        return _DECODE_FIELDS(body)
    except msgspec.ValidationError as error:
        wrong = str(error)  # it names a type and a path, not a value
    except UNREADABLE:
        wrong = _why_unreadable(body)
    # Raised outside the handler: a UnicodeError in the context would keep the whole body.
    raise ConfigurationError(f"the body cannot be sent: {wrong}")


def _why_unreadable(body: bytes) -> str:
    try:
        decoded(body, decode_parts)  # which replaces lone surrogates
    except UNREADABLE:
        return "it is not a JSON object"
    return f"it {_HALF_CHARACTER}"


def fields_of(payload: Mapping[str, Any], body: bytes) -> RequestFields:
    """Read the fields of a payload that was encoded as `body`; raise ConfigurationError as `read_fields` does."""
    names = payload.keys() & FIELD_NAMES
    if len(names) == 1:  # the model
        return RequestFields(payload["model"])
    fields = {name: payload[name] for name in names}
    if not _BUILTIN.issuperset(map(type, fields.values())):
        return read_fields(body)
    try:
        return msgspec.convert(fields, RequestFields)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"the body cannot be sent: {error}") from None


def set_stream(payload: dict[str, Any], shape: Shape) -> None:
    """Ask for a stream, including its usage, unless the payload has `stream_options`.

    ``"stream_options": None`` asks for nothing, and is left out.
    """
    usage = {"include_usage": True} if shape in REPORTS_USAGE else None
    if payload.setdefault("stream_options", usage) is None:
        del payload["stream_options"]
    payload["stream"] = True


def with_fields(body: bytes, parts: Parts | None = None, /, **fields: Any) -> bytes:
    """Return the body with these fields set; other fields stay as written. `parts` are the body's, if known."""
    return msgspec.json.encode((parts or decode_parts(body)) | fields)


def as_stream(body: bytes) -> bytes:
    """Ask for the same answer as a stream, its usage included."""
    return with_fields(body, stream=True, stream_options={"include_usage": True})


def without_stream(body: bytes) -> bytes:
    """Ask for the same answer without streaming."""
    fields = decode_parts(body)
    return msgspec.json.encode(
        {name: value for name, value in fields.items() if name not in ("stream", "stream_options")}
    )


def _with_format(body: bytes, shape: Shape, schema: AnswerSchema) -> tuple[bytes, bool]:
    """Ask for answers that fit a schema, if the API can and the body asks for no format; return whether it does."""
    format_ = schema.format_of(shape)
    if format_ is None:
        return body, False
    fields = decode_parts(body)
    added = format_field(format_, shape, fields)
    return (msgspec.json.encode(fields | added), True) if added else (body, False)


def count_inputs(body: bytes) -> int | None:
    """Count the inputs to embed: a text, its tokens, or a list of either; None if there are none."""
    try:
        return _count_texts(_DECODE_EMBEDDED(body).input)
    except UNREADABLE:
        return None


def count_prompts(body: bytes) -> int | None:
    """Count the prompts of a text completion, each with an answer; None if they cannot be counted."""
    try:
        prompt = _DECODE_PROMPTED(body).prompt
    except UNREADABLE:
        return None
    return 1 if prompt is None else _count_texts(prompt)


def _count_texts(given: str | list[msgspec.Raw]) -> int | None:
    if isinstance(given, str):
        return 1
    first = bytes(given[0])[:1] if given else b""
    if first in {b'"', b"["}:
        return len(given)
    return 1 if first.isdigit() else None  # the tokens of one text


# ---------------------------------------------------------------- encoding a payload

_FLAT: Any = str | int | float | bool | None
_DEEP: Any = _FLAT
for _ in range(8):  # levels; deeper payloads take the slow check
    _DEEP = _FLAT | list[_DEEP] | dict[str, _DEEP]

# A class, since msgspec prepares any other type at each call.
_Plain = msgspec.defstruct("_Plain", [("value", _DEEP)])
msgspec.json.Decoder(_Plain)  # prepare it now: if two threads do, the process can crash
_UNFIT = (bytes, bytearray, memoryview)
_MAX_SHOWN = 40  # characters of a name in a path


def encode_payload(payload: Mapping[str, Any], *, name: str = "the payload") -> bytes:
    """Encode a payload as JSON.

    Raises ConfigurationError for a value that JSON cannot represent, with its path but not the value. msgspec would
    turn bytes into a string, and numbers that are not finite into null.
    """
    try:
        body = msgspec.json.encode(payload)
        if b"null" not in body:  # so all numbers are finite
            try:
                msgspec.convert({"value": payload}, _Plain)
            except (msgspec.ValidationError, RecursionError):
                pass  # check each value below
            else:
                return body
        builtins = msgspec.to_builtins(payload, builtin_types=_UNFIT, enc_hook=_keep_raw)
        wrong = next(_unfit(builtins, ""), None)
        if wrong is None:
            return body
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        wrong = next(_unfit(payload, ""), f"it has an unsupported value ({type(error).__name__})")
    # Raised outside the handler: a UnicodeError in the context would keep the whole text.
    raise ConfigurationError(f"{name} cannot be written as JSON: {wrong}")


def _unfit(value: object, path: str, levels: int = 100) -> Iterator[str]:
    """Describe the values that JSON cannot represent, with their paths."""
    if isinstance(value, Mapping) and levels:
        for key, each in value.items():
            if isinstance(key, _UNFIT) or (isinstance(key, float) and not isfinite(key)):
                yield f"{path or 'it'} has a key of type {type(key).__name__}"
            name = str(key)
            shown = name if name.isidentifier() and len(name) <= _MAX_SHOWN else "..."
            yield from _unfit(each, f"{path}.{shown}".removeprefix("."), levels - 1)
    elif isinstance(value, list | tuple) and levels:
        for index, each in enumerate(value):
            yield from _unfit(each, f"{path}[{index}]", levels - 1)
    elif isinstance(value, float) and not isfinite(value):
        yield f"{path} is {value}"
    elif isinstance(value, _UNFIT) or not _is_encodable(value):
        what = f"is of type {type(value).__name__}"
        if type(value) is str:
            what = _HALF_CHARACTER
        yield f"{path} {what}"


def _is_encodable(value: object) -> bool:
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return False
    return True


def _keep_raw(value: object) -> object:
    if isinstance(value, msgspec.Raw):
        return None  # sent unchanged
    raise TypeError(type(value).__name__)


# ---------------------------------------------------------------- one body, a request for each target


class RequestTemplate:
    """A body, and the requests to each target made from it.

    Every attempt at one target has the same idempotency key: the `key` at the first target, a key derived from it at
    each other; by default random keys. A target with another model gets the body with that model.

    With a `schema` the body asks for it if the API can. A repair is another request with another key: it continues
    after the answer that does not fit. With the `repairs` of an earlier call, this one continues with the last of them.

    Raises:
        ConfigurationError: the body is not a JSON object, has no model, asks for a deferred answer, or cannot have a
            schema.
    """

    def __init__(
        self,
        endpoint: str,
        body: bytes,
        *,
        key: str | None = None,
        fields: RequestFields | None = None,
        schema: AnswerSchema | None = None,
        repairs: Repairs | None = None,
        parts: Parts | None = None,
        passed: Passed = (),
    ) -> None:
        """`fields` and `parts` are those of the body, if known; `passed` are further headers."""
        self.endpoint = endpoint
        self.shape = shape = shape_of(endpoint)
        if fields is None:
            fields = read_fields(body)
        self.fields = fields
        if fields.deferred and shape is Shape.CHAT:
            raise ConfigurationError(
                '"deferred": true asks for a job, and every attempt would start another one; remove it'
            )
        if schema is not None and (shape not in CHECKED or is_fim(endpoint)):
            raise ConfigurationError(
                "a schema needs chat/completions, responses or messages; the answer of another endpoint is not checked"
            )
        self.schema = schema
        self._repairs = repairs or Repairs() if schema is not None else None
        self._needs: dict[Target, Repair] = {}  # of the next attempt, if it is a repair
        self._has_format = False
        if schema is not None:
            body, self._has_format = _with_format(body, shape, schema)
        self.model = fields.model
        self.streamed = self.delivers = bool(fields.stream)  # it delivers if the body itself asks
        self.reports_output = self.streamed and shape in FORMATS  # before the end of the answer
        self._given = self._body = self._unlimited = body
        self._parts = parts
        self._key = key
        self._passed = passed
        self._max_output: int | None = None
        self._prompts = count_prompts(body) if shape is Shape.COMPLETION else 1
        self._choices = (fields.n or 1) * (self._prompts or 1)  # returned choices
        self._inputs = count_inputs(body) if shape is Shape.EMBEDDINGS else None
        self.prepared: dict[Target, tuple[Route, PreparedRequest]] = {}

    def stream_on_wire(self) -> None:
        """Ask for a stream, to be assembled, if the answer is the same."""
        if self.shape is Shape.CHAT and self.fields.may_stream and not is_fim(self.endpoint):
            self._body = self._unlimited = as_stream(self._body)
            self.streamed = self.reports_output = True

    def prepare(self, route: Route) -> PreparedRequest:
        """Prepare the request to a target, once; raise ConfigurationError if the endpoint is not a path."""
        origin, target, shape = route.origin, route.target, self.shape
        if target in self.prepared:
            return self.prepared[target][1]
        accept = _ACCEPT_ANY if shape is Shape.JSON else _ACCEPT_JSON
        if self.streamed:
            accept = _ACCEPT_STREAM
        if self._key is None:
            key = urandom(16).hex()  # `secrets` takes four times as long
        elif not self.prepared:
            key = self._key
        else:
            source = f"{self._key} {origin.base_url} {target}"
            key = blake2b(source.encode(), digest_size=16).hexdigest()
        url, headers, connect = self._head(route, accept, key)
        request = PreparedRequest(
            url,
            headers,
            self._body_for(target),
            connect_timeout=connect,
            shape=shape,
            streamed=self.streamed,
            choices=self._choices,
            inputs=self._inputs,
        )
        self.prepared[target] = route, request
        if self._repairs is not None and self._repairs.misfits:
            self._resume(target, self._repairs.misfits)
        return self.prepared[target][1]

    def _head(self, route: Route, accept: Passed, key: str) -> tuple[str, Mapping[str, str], float]:
        """Return the URL and the headers of the request to a target, and the connect timeout in seconds."""
        headers = route.origin.keyed_headers(self.endpoint, accept + self._passed, key)
        return headers.fixed.url, headers, CONNECT_TIMEOUT

    def _body_for(self, target: Target) -> bytes:
        """Return the body for a target, before any repair."""
        body = self._body
        if self._max_output is not None:
            body = self._limited(target.provider, self._max_output)
        if self._has_format and self.shape is Shape.CHAT and target.provider in UNASKED:
            body = without_format(body)
        if target.model != self.fields.model:
            parts = self._parts if body is self._given else None
            body = with_fields(body, parts, model=target.model)
        return body

    # ------------------------------------------------------------ schema

    def check(self, outcome: Outcome, target: Target | None) -> Outcome:
        """Check the text of an answer against the schema, if there is one. Without its `target` it is not repaired.

        A tool call is not checked, since it is not an answer yet. An answer that was cut at a limit is not repaired: it
        would be cut again.
        """
        if self.schema is None or outcome.verdict is not VERDICT_OK:
            return outcome
        response: Response = outcome.value
        parsed = response.parsed
        reason = reason_of(parsed.finish_reason) if parsed.finish_reason else None
        meaning = None if reason is None else reason.meaning
        if meaning is FinishMeaning.TOOL_CALL or (
            not parsed.text and b'"function_call"' in response.body
        ):
            return outcome
        value, problem = self.schema.read(parsed.text)
        if problem is None:
            return outcome._replace(value=response._replace(value=value))
        detail, repair = problem.detail, None
        if meaning is FinishMeaning.TRUNCATED:
            detail = f"{meaning.value}: {detail}"
        elif target is not None:
            repair = self._repair(target, parsed.text, problem.shown)
        return outcome._replace(
            verdict=Verdict.SCHEMA_MISMATCH, detail=detail, maybe_processed=True, repair=repair
        )

    def _repair(self, target: Target, answer: str, errors: str) -> Repair | None:
        """Make the next attempt show the model the errors of its `answer`; None if no repair is left."""
        assert self.schema is not None
        assert self._repairs is not None, "only an answer with a schema is repaired"
        if self._repairs.count == self.schema.repairs:
            return None
        self._repairs.count += 1
        self._note_need(target, self._show(target, answer, errors))
        return Repair(self.estimated_tokens(), self.token_bound())  # for any target

    def _resume(self, target: Target, misfits: Mapping[Target, Misfit]) -> None:
        """Continue with the repairs of earlier rounds. The call reserves tokens before its targets are known."""
        if len(self.prepared) == 1:
            for each, (answer, errors, _) in misfits.items():
                self._note_need(each, self._repaired(each, answer, errors))
        if target in misfits:
            self._show(target, *misfits[target])

    def _note_need(self, target: Target, body: bytes) -> None:
        self._needs[target] = Repair(self.estimated_tokens(body), self.token_bound(body))

    def _repaired(self, target: Target, answer: str, errors: str) -> bytes:
        assert self.schema is not None
        body, schema = self._body_for(target), self.schema.encoded
        return repaired(body, self.shape, schema=schema, answer=answer, errors=errors)

    def _show(self, target: Target, answer: str, errors: str, key: str | None = None) -> bytes:
        """Make the next attempt show the model its last answer; return the body. A new repair has no `key` yet."""
        assert self._repairs is not None
        route, request = self.prepared[target]
        body = self._repaired(target, answer, errors)
        if key is None:
            source = f"{request.headers[IDEMPOTENCY_KEY]} ".encode() + body
            key = blake2b(source, digest_size=16).hexdigest()
        self._repairs.misfits[target] = Misfit(answer, errors, key)
        headers = {**request.headers, IDEMPOTENCY_KEY: key}
        self.prepared[target] = route, request._replace(body=body, headers=headers)
        return body

    # ------------------------------------------------------------ tokens

    def estimated_tokens(self, body: bytes | None = None) -> int:
        """Estimate the tokens (prompt and answer) of an attempt with this body; None: the maximum at any target."""
        choices = (self._prompts or 1) * self.fields.choices
        limit, answers = self._output_limit, self._has_output
        tokens = estimate(body or self._body, bound=limit, choices=choices, answers=answers)
        if body is None and self._needs:
            return max(tokens, *(need.tokens for need in self._needs.values()))
        return tokens

    def limit_output(self, tokens: int | None, provider: str) -> None:
        """Limit the output of a body that sets no limit itself; call it before anything is prepared.

        `provider` is that of the first target; each other target gets the field that it reads.
        """
        assert not self.prepared, "a prepared request does not change"
        if (
            tokens is None
            or self.shape is Shape.JSON
            or not self._has_output
            or self._output_limit is not None
        ):
            return
        self._max_output = tokens
        self._body = self._limited(provider, tokens)

    def _limited(self, provider: str, tokens: int) -> bytes:
        field = "max_output_tokens" if self.shape is Shape.RESPONSES else "max_tokens"
        if self.shape is Shape.CHAT and provider in _MAX_COMPLETION_TOKENS:
            field = "max_completion_tokens"
        fields = decode_parts(self._unlimited)
        for name in _limit_names(self.shape):  # invalid limits, but a server may respect one
            fields.pop(name, None)
        return msgspec.json.encode({**fields, field: tokens})

    @property
    def _output_limit(self) -> int | None:
        limit = self._max_output
        return self.fields.output_limit(self.shape) if limit is None else limit

    @property
    def _has_output(self) -> bool:
        return self.shape is not Shape.EMBEDDINGS

    def token_bound(self, body: bytes | None = None) -> Usage | None:
        """Return the maximum tokens of an attempt with this body; without it, at any target. None: unbounded."""
        if path_of(self.endpoint).endswith(FREE):
            return Usage()
        if self._prompts is None:
            return None
        choices = self._prompts * self.fields.choices
        limit, answers = self._output_limit, self._has_output
        bound = bound_of(body or self._body, bound=limit, choices=choices, answers=answers)
        if body is None and self._needs:
            return most_of(bound, *(need.bound for need in self._needs.values()))
        return bound

    def unbounded_reason(self) -> str:
        field = unbounded_by(self._body)
        if field is not None:
            return f"its {field} may cost more than can be known"
        if self._prompts is None:
            return "its prompts cannot be counted"
        return NO_BOUND

    def expected_usage(self, output_tokens: int) -> Usage:
        """Estimate the usage of an attempt whose answers have `output_tokens` each, or their limit if it is lower."""
        limit = self._output_limit
        length = output_tokens if limit is None else min(limit, output_tokens)
        return Usage(
            input_tokens=estimate(self._body, answers=False),
            output_tokens=self.fields.choices * length if self._has_output else 0,
        )

    def local_request(self, origin: Origin) -> LocalRequest:
        """Return the input of a local answer; `origin` is that of the first target."""
        asked = self.endpoint, self.shape, self._given, self.fields.model
        return LocalRequest(origin.base_url, *asked, origin.api_key, self._choices, self._inputs)


def headers_for(origin: Origin, request: PreparedRequest) -> dict[str, str]:
    """Return the headers of a request with another key of its origin; the headers of the old key are removed."""
    own = {name: value for name, value in request.headers.items() if name in _WITHOUT_KEY}
    return {**origin.headers[request.shape], **own}


class Lookup:
    """A request that only reads, such as a list of models. It goes only to its own target, and uses no tokens."""

    model = NO_MODEL
    delivers = reports_output = streamed = False
    shape = Shape.RESOURCE
    schema = None

    def __init__(self, request: PreparedRequest) -> None:
        self._request = request
        self.prepared: dict[Target, tuple[Route, PreparedRequest]] = {}

    def prepare(self, _route: Route) -> PreparedRequest:
        return self._request

    def check(self, outcome: Outcome, _target: Target) -> Outcome:
        """Return the outcome: a lookup has no schema."""
        return outcome

    def limit_output(self, _tokens: int | None, _provider: str) -> None:
        """Do nothing: no model answers."""

    def estimated_tokens(self) -> int:
        return 0

    def token_bound(self) -> Usage:
        return Usage()

    def unbounded_reason(self) -> str:
        return ""
