"""What good answers say: bodies in the shape of the OpenAI API, each a function of the very request.

The text names the digest of the request it answers, so that a client can tell whether it got its own answer. It
never contains any of the prompt.
"""

from array import array
from base64 import b64encode
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from stormbreak.provider.chance import mix, uniform

_VOCABULARY = """
amber anchor basin beacon birch bridge calm canyon cedar cinder cliff cloud copper coral cove current
dawn delta drift dune ember estuary fern field fjord flint frost garden glacier granite grove harbour
haze heather horizon island juniper keel lagoon lantern ledge maple marsh meadow mist moss oak orchard
pebble pine prairie quarry reef ridge river sail shore slate spruce summit thicket tide valley willow
"""
_WORDS = _VOCABULARY.split()
_WORD_COUNT = 12
_BORN = 1_700_000_000  # a time of creation that is the same in every run
_PLACE_KEYS = (
    "stream",
    "stream_options",
)  # how an answer is delivered does not change what it says
_MOST_DIMENSIONS = 4096
_encode = msgspec.json.Encoder(order="sorted").encode
_plain = msgspec.json.Encoder().encode


class Refusal(NamedTuple):
    """A request that cannot be answered, in the words of the API."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | None = None


class Asked(NamedTuple):
    """A request, understood: what its answer is made from."""

    embeddings: bool
    model: str
    digest: str  # 16 hexadecimal digits
    input_tokens: int
    streamed: bool
    wants_usage: bool
    texts: int  # how many embeddings are asked for
    dimensions: int
    base64: bool
    most_output: int = 0  # tokens of the answer, if the request bounds them

    @property
    def tokens(self) -> int:
        """What the request counts in a limit of tokens."""
        if self.embeddings:
            return self.input_tokens
        return self.input_tokens + (self.most_output or _WORD_COUNT + 2)

    @property
    def key(self) -> int:
        """The digest as a number."""
        return int(self.digest, 16)


def understand(path: str, body: bytes) -> Asked | Refusal:
    """Read the body of a request to `/v1/chat/completions` or `/v1/embeddings`."""
    try:
        payload = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return Refusal(400, "the body is not valid JSON")
    embeddings = path.endswith("/embeddings")
    wrong = _complaint(payload, embeddings=embeddings)
    if wrong:
        return Refusal(400, wrong)
    said = _essence(payload)
    options = payload.get("stream_options")
    texts = payload.get("input")
    return Asked(
        embeddings=embeddings,
        model=payload["model"],
        digest=_digest(said),
        input_tokens=len(said) // 4 + 1,
        streamed=payload.get("stream") is True and not embeddings,
        wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
        texts=len(texts) if isinstance(texts, list) and not _is_tokens(texts) else 1,
        dimensions=min(max(_whole(payload.get("dimensions"), 16), 1), _MOST_DIMENSIONS),
        base64=payload.get("encoding_format") == "base64",
        most_output=max(_most_output(payload), 0),
    )


def _most_output(payload: Mapping[str, Any]) -> int:
    return _whole(payload.get("max_completion_tokens"), _whole(payload.get("max_tokens"), 0))


def digest_of(payload: Mapping[str, Any]) -> str:
    """Compute the digest by which a request is known."""
    return _digest(_essence(payload))


def _essence(payload: Mapping[str, Any]) -> bytes:
    return _encode({key: item for key, item in payload.items() if key not in _PLACE_KEYS})


def _digest(essence: bytes) -> str:
    return blake2b(essence, digest_size=8).hexdigest()


def _complaint(payload: Any, *, embeddings: bool) -> str | None:
    if not isinstance(payload, dict):
        return "the body must be a JSON object"
    if not isinstance(payload.get("model"), str):
        return "you must provide a model"
    if embeddings:
        texts = payload.get("input")
        fits = isinstance(texts, str) or (isinstance(texts, list) and 0 < len(texts) <= 2048)
        return None if fits else "'input' must be a string or a list of at most 2048 items"
    messages = payload.get("messages")
    fits = isinstance(messages, list) and bool(messages)
    return None if fits else "'messages' must be a list that is not empty"


def _is_tokens(texts: list[Any]) -> bool:
    return all(isinstance(item, int) for item in texts)


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def text_for(digest: str) -> str:
    """Compose the text that answers the request of this digest."""
    bits = mix(int(digest, 16))
    words = [_WORDS[(bits >> (5 * place)) % len(_WORDS)] for place in range(_WORD_COUNT)]
    return f"Answer {digest}: {' '.join(words)}."


def _usage(asked: Asked, output: int) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": asked.input_tokens,
        "total_tokens": asked.input_tokens + output,
    }
    if not asked.embeddings:
        usage["completion_tokens"] = output
        usage["prompt_tokens_details"] = {"cached_tokens": 0}
    return usage


def body_of(asked: Asked) -> bytes:
    """Write the whole body of a plain answer."""
    return _embeddings(asked) if asked.embeddings else _completion(asked)


def _completion(asked: Asked) -> bytes:
    message = {"role": "assistant", "content": text_for(asked.digest)}
    return _plain(
        {
            "id": f"chatcmpl-{asked.digest}",
            "object": "chat.completion",
            "created": _BORN,
            "model": asked.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": _usage(asked, _WORD_COUNT + 2),
        }
    )


def _embeddings(asked: Asked) -> bytes:
    vectors = (_vector(asked, place) for place in range(asked.texts))
    data = [
        {"object": "embedding", "index": place, "embedding": vector}
        for place, vector in enumerate(vectors)
    ]
    return _plain({"object": "list", "data": data, "model": asked.model, "usage": _usage(asked, 0)})


def _vector(asked: Asked, place: int) -> list[float] | str:
    start = mix(asked.key + place)
    numbers = array("f", (uniform(mix(start + d)) * 2 - 1 for d in range(asked.dimensions)))
    return b64encode(numbers.tobytes()).decode() if asked.base64 else numbers.tolist()


def events_of(asked: Asked) -> list[bytes]:
    """Write a streamed answer as server-sent events: role, words, finish, usage if wanted, `[DONE]`."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    words = text_for(asked.digest).split(" ")
    deltas += [{"content": word if place == 0 else f" {word}"} for place, word in enumerate(words)]
    events = [_event(asked, [_choice(delta, None)]) for delta in deltas]
    events.append(_event(asked, [_choice({}, "stop")]))
    if asked.wants_usage:
        events.append(_event(asked, [], usage=_usage(asked, _WORD_COUNT + 2)))
    events.append(b"data: [DONE]\n\n")
    return events


def _choice(delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish}


def _event(asked: Asked, choices: list[dict[str, Any]], **more: Any) -> bytes:
    said = {
        "id": f"chatcmpl-{asked.digest}",
        "object": "chat.completion.chunk",
        "created": _BORN,
        "model": asked.model,
        "choices": choices,
        **more,
    }
    return b"data: %b\n\n" % _plain(said)


def models(names: tuple[str, ...]) -> bytes:
    """Write the list of models."""
    data = [
        {"id": name, "object": "model", "created": _BORN, "owned_by": "stormbreak"}
        for name in names
    ]
    return _plain({"object": "list", "data": data})


def error_body(refusal: Refusal) -> bytes:
    """Write an error in the shape of the OpenAI API."""
    error = {
        "message": refusal.message,
        "type": refusal.kind,
        "param": None,
        "code": refusal.code,
    }
    return _plain({"error": error})
