"""Write an answer in one piece as the events of a stream.

Some servers answer a streaming request in one piece. An SDK finds no events there, and its caller sees an answer
without text or an unrelated error. The events are those that SDKs need; all values are the server's.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from stormbreak.llm.endpoints import Shape
from stormbreak.llm.surrogates import UNREADABLE, decoded

_Object = dict[str, Any]
_STOP = ("stop_reason", "stop_sequence", "stop_details")
_DONE = b"data: [DONE]\n\n"


def whole_as_events(shape: Shape, body: bytes) -> bytes | None:
    """Write the answer `body` as a stream; return None if its shape has no stream, or its form is unusual."""
    write = _FORMATS.get(shape)
    if write is None:
        return None
    try:
        return write(decoded(body))
    except (*UNREADABLE, AttributeError, KeyError, TypeError):
        return None


def _chat(answer: _Object) -> bytes:
    choices = [{"index": at} | _delta(choice) for at, choice in enumerate(answer["choices"])]
    chunk = answer | {"object": "chat.completion.chunk", "choices": choices}
    return b"data: %b\n\n" % msgspec.json.encode(chunk) + _DONE


def _delta(choice: _Object) -> _Object:
    rest = dict(choice)
    delta = dict(rest.pop("message", None) or {})  # a filtered choice may have none
    if calls := delta.get("tool_calls"):
        delta["tool_calls"] = [call | {"index": at} for at, call in enumerate(calls)]
    return rest | {"delta": delta}


def _completion(answer: _Object) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(answer) + _DONE


def _message(answer: _Object) -> bytes:
    start = answer | {"content": [], "stop_reason": None, "stop_sequence": None}
    events: list[_Object] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(answer["content"] or ()):
        begun, deltas = _block(block)
        events.append({"type": "content_block_start", "index": index, "content_block": begun})
        events += [
            {"type": "content_block_delta", "index": index, "delta": each} for each in deltas
        ]
        events.append({"type": "content_block_stop", "index": index})
    stop = {name: answer[name] for name in _STOP if name in answer}
    events.append({"type": "message_delta", "delta": stop, "usage": answer.get("usage") or {}})
    return _named([*events, {"type": "message_stop"}])


def _block(block: _Object) -> tuple[_Object, list[_Object]]:
    """Return the start of a block, and its deltas; a block without deltas starts whole."""
    kind = block.get("type")
    if kind == "text":
        return block | {"text": ""}, [{"type": "text_delta", "text": block.get("text") or ""}]
    if kind == "thinking":
        thought = {"type": "thinking_delta", "thinking": block.get("thinking")}
        signature = {"type": "signature_delta", "signature": block.get("signature") or ""}
        return block | {"thinking": "", "signature": ""}, [thought, signature]
    if kind in {"tool_use", "server_tool_use"}:
        json = msgspec.json.encode(block.get("input")).decode()
        return block | {"input": {}}, [{"type": "input_json_delta", "partial_json": json}]
    return block, []


def _response(answer: _Object) -> bytes:
    start = answer | {"status": "in_progress", "output": []}
    events: list[_Object] = [{"type": "response.created", "response": start}]
    for index, item in enumerate(answer["output"]):
        events += _item({"output_index": index}, item)
    events.append({"type": f"response.{answer['status']}", "response": answer})
    return _named(event | {"sequence_number": at} for at, event in enumerate(events))


def _item(place: _Object, item: _Object) -> list[_Object]:
    parts = item.get("content") or []
    begun = item | {"content": []} if parts else item
    events: list[_Object] = [{"type": "response.output_item.added", **place, "item": begun}]
    for at, part in enumerate(parts):
        here = place | {"item_id": item.get("id"), "content_index": at}
        is_text = part.get("type") == "output_text"
        begun = part | {"text": ""} if is_text else part
        events.append({"type": "response.content_part.added", **here, "part": begun})
        if is_text:
            delta = {"delta": part.get("text"), "logprobs": []}
            events.append({"type": "response.output_text.delta", **here, **delta})
        events.append({"type": "response.content_part.done", **here, "part": part})
    return [*events, {"type": "response.output_item.done", **place, "item": item}]


def _named(events: Iterable[_Object]) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event))
        for event in events
    )


_FORMATS: Mapping[Shape, Callable[[_Object], bytes]] = {
    Shape.CHAT: _chat,
    Shape.COMPLETION: _completion,
    Shape.MESSAGES: _message,
    Shape.RESPONSES: _response,
}
