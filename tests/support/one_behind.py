"""A server whose first connection is one answer behind: an answer that nobody requested came first."""

import json

from chat_stream import HELLO, OPENING, STOP
from doubles import plain
from sockets import EVENTS, answer
from streamed import DONE


def said(request):
    """The text of the last message of a request."""
    return json.loads(request.body)["messages"][-1]["content"]


def streamed(text):
    """The same as a stream."""
    return answer(OPENING + HELLO.replace(b"hello", text.encode()) + STOP + DONE, **EVENTS)


class OneBehind:
    """Answers what it was asked; on its first connection `ahead`, and then always the request before."""

    def __init__(self, ahead):
        self._next = {1: ahead}

    async def __call__(self, request, writer):
        text = f"to {said(request)}"
        if json.loads(request.body).get("stream"):
            own = streamed(text)
        else:
            own = plain(text, as_message="/messages " in request.line)
        late = self._next.get(request.connection)
        if late is not None:
            own, self._next[request.connection] = late, own
        writer.write(own)
        await writer.drain()
