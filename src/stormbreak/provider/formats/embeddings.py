"""`/v1/embeddings`."""

from array import array
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from stormbreak.provider.chance import mix, uniform
from stormbreak.provider.formats.base import (
    Format,
    ParsedRequest,
    Refusal,
    count_texts,
    encode,
    invalid,
    whole_number,
)

_MAX_DIMENSIONS = 4096


def _find_error(payload: Mapping[str, Any]) -> Refusal | None:
    texts = payload.get("input")
    fits = isinstance(texts, str) or (isinstance(texts, list) and 0 < len(texts) <= 2048)
    return None if fits else invalid("input", "must be a string or a list of at most 2048 items")


def _body(request: ParsedRequest) -> bytes:
    data = [
        {"object": "embedding", "index": place, "embedding": _vector(request, place)}
        for place in range(0 if request.empty else count_texts(request.payload["input"]))
    ]
    usage = {"prompt_tokens": request.input_tokens, "total_tokens": request.input_tokens}
    return encode({"object": "list", "data": data, "model": request.model, "usage": usage})


def _vector(request: ParsedRequest, place: int) -> list[float] | str:
    dimensions = min(max(whole_number(request.payload.get("dimensions"), 16), 1), _MAX_DIMENSIONS)
    start = mix(request.key + place)
    numbers = array("f", (uniform(mix(start + d)) * 2 - 1 for d in range(dimensions)))
    packed = request.payload.get("encoding_format") == "base64"
    return b64encode(numbers.tobytes()).decode() if packed else numbers.tolist()


EMBEDDINGS = Format(body=_body, find_error=_find_error)
