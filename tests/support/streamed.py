"""Streams of each format as their providers send them, event by event."""

import json

DONE = b"data: [DONE]\n\n"
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


def event(value, name=None):
    named = f"event: {name}\n" if name else ""
    return (
        f"{named}data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
    )


def typed(kind, **fields):
    return event({"type": kind, **fields}, kind)


def chunk(content=None, finish_reason=None, index=0, **fields):
    fields |= {} if content is None else {"content": content}
    choice = {"index": index, "delta": fields, "finish_reason": finish_reason}
    return event({"id": "c", "object": "chat.completion.chunk", "choices": [choice]})


CHAT_USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 2,
    "prompt_tokens_details": {"cached_tokens": 4},
}


def chat(texts, reason="stop"):
    return [
        chunk("", role="assistant"),
        *map(chunk, texts),
        chunk(None, reason),
        event({"id": "c", "choices": [], "usage": CHAT_USAGE}),
        DONE,
    ]


MESSAGE_USAGE = {
    "input_tokens": 5,
    "cache_read_input_tokens": 4,
    "cache_creation_input_tokens": 0,
    "output_tokens": 2,
}


def message(texts, reason="end_turn"):
    start = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": MESSAGE_USAGE | {"output_tokens": 1},
    }
    return [
        typed("message_start", message=start),
        typed("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        PING,
        *(
            typed("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
            for text in texts
        ),
        typed("content_block_stop", index=0),
        typed(
            "message_delta",
            delta={"stop_reason": reason, "stop_sequence": None},
            usage={"output_tokens": 2, "input_tokens": None},
        ),
        typed("message_stop"),
    ]


def whole_message(texts, reason="end_turn"):
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [{"type": "text", "text": "".join(texts)}],
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": MESSAGE_USAGE,
    }


RESPONSE_USAGE = {
    "input_tokens": 9,
    "output_tokens": 2,
    "input_tokens_details": {"cached_tokens": 4},
}


def whole_response(texts, status="completed", **fields):
    text = {"type": "output_text", "text": "".join(texts), "annotations": []}
    item = {"id": "i", "type": "message", "role": "assistant", "content": [text]}
    return {
        "id": "resp_1",
        "object": "response",
        "status": status,
        "error": None,
        "incomplete_details": None,
        "output": [item],
        "usage": RESPONSE_USAGE,
        **fields,
    }


def response(texts, status="completed", **fields):
    whole = whole_response(texts, status, **fields)
    begun = whole | {
        "status": "in_progress",
        "output": [],
        "usage": None,
        "incomplete_details": None,
    }
    item = {"id": "i", "type": "message", "status": "in_progress", "content": []}
    return [
        typed("response.created", response=begun),
        typed("response.in_progress", response=begun),
        typed("response.output_item.added", output_index=0, item=item),
        typed("response.content_part.added", item_id="i", part={"type": "output_text", "text": ""}),
        *(typed("response.output_text.delta", item_id="i", delta=text) for text in texts),
        typed("response.output_text.done", item_id="i", text="".join(texts)),
        typed("response.output_item.done", output_index=0, item=whole["output"][0]),
        typed(f"response.{status}", response=whole),
    ]
