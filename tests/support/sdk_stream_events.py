"""Streams in the format of the SDKs: a head, a first output, and further pieces."""

import json

import anthropic
from sockets import EVENTS, answer

HEAD = answer(b"", **EVENTS | {"content_length": 10**7})


def chunk(content, finish=None):
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    data = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps(data | {"choices": [choice]}).encode() + b"\n\n"


def event(kind, **more):
    data = json.dumps({"type": kind, **more})
    return f"event: {kind}\ndata: {data}\n\n".encode()


MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": []}
MESSAGE |= {"usage": {"input_tokens": 1, "output_tokens": 0}}
START = event("message_start", message=MESSAGE) + event(
    "content_block_start", index=0, content_block={"type": "text", "text": ""}
)


def hello(sdk):
    """The start of a stream with its first output."""
    if sdk.module is not anthropic:
        return chunk("hello")
    return START + event(
        "content_block_delta", index=0, delta={"type": "text_delta", "text": "hello"}
    )
