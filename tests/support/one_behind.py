"""A server whose first connection is one answer behind: it starts with an unrequested answer."""

import json

from chat_stream import HELLO, OPENING, STOP
from doubles import plain
from sockets import EVENTS, answer
from streamed import DONE


def prompt(request):
    """The text of the last message of a request."""
    return json.loads(request.body)["messages"][-1]["content"]


def streamed(text):
    """The same answer as a stream."""
    return answer(OPENING + HELLO.replace(b"hello", text.encode()) + STOP + DONE, **EVENTS)


class OneBehind:
    """Answers each request; on the first connection it sends `ahead` first, and then always the answer to the previous request."""

    def __init__(self, ahead):
        self._next = {1: ahead}

    async def __call__(self, request, writer):
        text = f"to {prompt(request)}"
        if json.loads(request.body).get("stream"):
            own = streamed(text)
        else:
            own = plain(text, as_message="/messages " in request.line)
        late = self._next.get(request.connection)
        if late is not None:
            own, self._next[request.connection] = late, own
        writer.write(own)
        await writer.drain()
