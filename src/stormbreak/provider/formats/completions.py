"""`/v1/completions`, for one prompt or several."""

from collections.abc import Mapping
from typing import Any

from stormbreak.provider.formats import chat
from stormbreak.provider.formats.base import BORN, Events, Format, ParsedRequest, encode, pieces

_MAX_PROMPTS = 20


def _find_error(payload: Mapping[str, Any]) -> str | None:
    prompt = payload.get("prompt")
    fits = isinstance(prompt, str) or (isinstance(prompt, list) and len(prompt) > 0)
    if not fits:
        return "'prompt' must be a string or a list that is not empty"
    too_many = _prompts(payload) > _MAX_PROMPTS
    return f"'prompt' must have at most {_MAX_PROMPTS} items" if too_many else None


def _prompts(payload: Mapping[str, Any]) -> int:
    """Count the prompts: a list of numbers is one, as tokens."""
    prompt = payload.get("prompt")
    if not isinstance(prompt, list) or all(isinstance(item, int) for item in prompt):
        return 1
    return len(prompt)


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


def _body(request: ParsedRequest) -> bytes:
    choices = [_choice(place, each.text, "stop") for place, each in enumerate(request.choices)]
    return _body_of(request, choices, usage=chat.usage_of(request))


def _events(request: ParsedRequest) -> Events:
    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: %b\n\n" % _body_of(request, choices, **more)

    texts = [*enumerate(each.text for each in request.choices)]
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
