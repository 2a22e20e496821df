"""A streamed chat completion with the text "hello there": whole, in parts, and cut after its first output."""

import json

from sockets import EVENTS, answer
from streamed import DONE


def chunk(content=None, finish=None, **more):
    delta = {"role": "assistant"} if content is None else {"content": content}
    data = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


OPENING = chunk()
HELLO, THERE = chunk("hello"), chunk(" there")
STOP = chunk("", "stop", usage={"prompt_tokens": 3, "completion_tokens": 2})
WHOLE = OPENING + HELLO + THERE + STOP + DONE
HEAD = answer(b"", **EVENTS | {"content_length": len(WHOLE)})
WHOLE_ANSWER = HEAD + WHOLE

ENDLESS = answer(b"", **EVENTS | {"content_length": 10**7})
"""The head of a stream that is always shorter than its content length."""

CUT = ENDLESS + OPENING + HELLO
