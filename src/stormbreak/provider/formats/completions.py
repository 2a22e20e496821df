"""`/v1/completions`, for one prompt or several. It refuses what OpenAI's description of the API (OpenAPI) excludes."""

from collections.abc import Iterator, Mapping
from math import inf
from typing import Any

from stormbreak.provider.formats import chat
from stormbreak.provider.formats.base import (
    BORN,
    Events,
    Format,
    ParsedRequest,
    Refusal,
    count_texts,
    encode,
    invalid,
    pieces,
)

_MAX_PROMPTS = 20
_WHOLE = {"n": (1, 128), "best_of": (0, 20), "logprobs": (0, 5), "max_tokens": (0, inf)}
_NUMBERS = {
    "temperature": (0, 2), "top_p": (0, 1), "frequency_penalty": (-2, 2), "presence_penalty": (-2, 2),
}  # fmt: skip
_KINDS: Mapping[str, tuple[type, str]] = {
    "echo": (bool, "a boolean"),
    "stream": (bool, "a boolean"),
    "suffix": (str, "a string"),
    "user": (str, "a string"),
    "logit_bias": (dict, "an object"),
    "stream_options": (dict, "an object"),
}


def _find_error(payload: Mapping[str, Any]) -> Refusal | None:
    given = {name: value for name, value in payload.items() if value is not None}
    if "prompt" not in payload or not _is_prompt(given.get("prompt", "")):
        what = "must be a string, or a list of strings, of tokens, or of lists of tokens"
        return invalid("prompt", what)
    if _prompts(payload) > _MAX_PROMPTS:
        return invalid("prompt", f"must have at most {_MAX_PROMPTS} items")
    return next(_errors(given), None)


def _errors(given: Mapping[str, Any]) -> Iterator[Refusal]:
    for name, (least, most) in (_WHOLE | _NUMBERS).items():
        number = int if name in _WHOLE else (int, float)
        value: Any = given.get(name, least)
        if isinstance(value, bool) or not isinstance(value, number) or not least <= value <= most:
            what = "an integer" if name in _WHOLE else "a number"
            yield invalid(name, f"must be {what} {_between(least, most)}")
    for name, (kind, what) in _KINDS.items():
        if name in given and not isinstance(given[name], kind):
            yield invalid(name, f"must be {what}")
    stop = given.get("stop", "")
    if not isinstance(stop, str) and not (_is_list_of(str, stop) and len(stop) <= 4):
        yield invalid("stop", "must be a string, or a list of one to four strings")
    streams, best_of = given.get("stream", False), given.get("best_of", 0)
    if 0 < best_of < given.get("n", 1):
        yield invalid("best_of", "must not be less than 'n'")
    if streams and best_of > 1:
        what = "must be 1 with 'stream': the best of several cannot be streamed"
        yield invalid("best_of", what)
    if "stream_options" in given and not streams:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        yield Refusal(400, message, param="stream_options")


def _between(least: float, most: float) -> str:
    return f"of at least {least}" if most == inf else f"from {least} to {most}"


def _is_list_of(kind: type, value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is kind for item in value)


def _is_prompt(value: Any) -> bool:
    if isinstance(value, str) or _is_list_of(str, value) or _is_list_of(int, value):
        return True
    return _is_list_of(list, value) and all(_is_list_of(int, item) for item in value)


def _prompts(payload: Mapping[str, Any]) -> int:
    return count_texts(payload.get("prompt"))


def _choice_count(payload: Mapping[str, Any]) -> int:
    return _prompts(payload) * chat.choice_count(payload)


def _body_of(request: ParsedRequest, choices: list[dict[str, Any]], **more: Any) -> bytes:
    return encode(
        {
            "id": f"cmpl-{request.digest}",
            "object": "text_completion",
            "created": BORN,
            "model": request.model,
            "choices": choices,
            **more,
        }
    )


def _choice(place: int, text: str, finish: str | None = None) -> dict[str, Any]:
    return {"text": text, "index": place, "logprobs": None, "finish_reason": finish}


def _texts(request: ParsedRequest) -> list[str]:
    """Return the text of each choice, after its prompt if the request asks for that; tokens are not decoded."""
    texts = [each.text for each in request.choices]
    if request.payload.get("echo") is not True:
        return texts
    prompts = request.payload.get("prompt", "")
    prompts = prompts if _is_list_of(str, prompts) else [prompts]
    if not all(isinstance(prompt, str) for prompt in prompts):
        return texts
    each = chat.choice_count(request.payload)
    return [f"{prompts[place // each]}{text}" for place, text in enumerate(texts)]


def _body(request: ParsedRequest) -> bytes:
    choices = [_choice(place, text, "stop") for place, text in enumerate(_texts(request))]
    return _body_of(request, choices, usage=chat.usage_of(request))


def _events(request: ParsedRequest) -> Events:
    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: %b\n\n" % _body_of(request, choices, **more)

    texts = [*enumerate(_texts(request))]
    finish = [event([_choice(place, "", "stop")]) for place, _ in texts]
    if chat.wants_usage(request.payload):
        finish.append(event([], usage=chat.usage_of(request)))
    return Events(
        opening=[],
        output=[event([_choice(place, piece)]) for place, text in texts for piece in pieces(text)],
        finish=finish,
        end=[b"data: [DONE]\n\n"],
    )


COMPLETIONS = Format(
    body=_body,
    events=_events,
    find_error=_find_error,
    output_tokens=lambda payload, default: _prompts(payload) * chat.output_tokens(payload, default),
    choice_count=_choice_count,
)
