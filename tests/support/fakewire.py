"""A connection without sockets that plays streams from a test."""

from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.types import Outcome, Verdict

CUT = Outcome(Verdict.BROKEN, status=200, detail="body was cut", maybe_processed=True)


class FakeIncoming:
    """Returns pieces, then an outcome or a regular end."""

    def __init__(self, pieces, end=b"", status=200):
        self.head = HttpResponse(status, {"content-type": "text/event-stream"}, b"", 0.0)
        self.left = [*pieces, end]
        self.closed = False

    async def read(self):
        return self.take()

    async def wait(self):
        pass

    def take(self):
        if self.closed:
            return CUT
        got = self.left.pop(0)
        self.closed = not self.left
        return got

    def limit_silence(self, seconds):
        pass

    def spoil(self):
        self.closed = True

    def close(self):
        self.closed = True


class FakeWire:
    """Opens one response after the other."""

    def __init__(self, *incoming):
        self.left = list(incoming)
        self.opened = []

    async def open(self, request):
        self.opened.append(self.left.pop(0))
        return self.opened[-1]

    async def close(self):
        pass
