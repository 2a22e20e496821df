"""The context of a fault: the request, and the other inputs of its script."""

from typing import NamedTuple

from stormbreak.http.h1.request_parser import CHUNKED, Headers, response_head
from stormbreak.provider.formats.base import ParsedRequest
from stormbreak.provider.scripts import EVENTS, JSON


class FaultContext(NamedTuple):
    """The context of one answer. Durations are real seconds."""

    request: ParsedRequest
    headers: Headers
    other: ParsedRequest  # another request, such as the previous one
    lasting: float = 0.0  # how long a stream takes
    slower: float = 0.0  # added latency of a slow answer
    after: float = 0.0  # until an unsolicited action

    def without_schema(self) -> "FaultContext":
        """Return the same context for an answer that ignores the schema of its request."""
        return self._replace(request=self.request._replace(schema=None, canned=None))

    def without_choices(self) -> "FaultContext":
        return self._replace(request=self.request._replace(empty=True))

    @property
    def media(self) -> str:
        return EVENTS if self.request.streamed else JSON

    @property
    def body(self) -> bytes:
        """The whole answer in one piece, all events of a stream included."""
        if self.request.streamed:
            return b"".join(self.events)
        return self.request.format.body(self.request)

    @property
    def events(self) -> list[bytes]:
        assert self.request.format.events is not None
        return self.request.format.events(self.request).all()

    def head(self, length: int | None = None, *more: tuple[str, str]) -> bytes:
        """Encode the head of a good answer; without a length it is chunked."""
        framing = CHUNKED if length is None else length
        return response_head(200, self.media, framing, self.headers + more)

    def whole(self) -> bytes:
        body = self.body
        return self.head(len(body)) + body
