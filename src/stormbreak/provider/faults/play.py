"""What a fault has to play with: the request, and whatever its script depends on."""

from typing import NamedTuple

from stormbreak.provider.formats.base import Asked
from stormbreak.provider.http1 import Headers, head
from stormbreak.provider.scripts import EVENTS, JSON


class FaultContext(NamedTuple):
    """One answer to be played. Spans are real seconds."""

    asked: Asked
    headers: Headers
    other: Asked  # a request that this is not the answer to, such as the previous one
    lasting: float = 0.0  # how long a stream takes
    slower: float = 0.0  # by how much a slow answer is slower
    after: float = 0.0  # until something happens that nobody had asked for

    @property
    def media(self) -> str:
        """The type of the answer."""
        return EVENTS if self.asked.streamed else JSON

    @property
    def body(self) -> bytes:
        """The whole answer in one piece; all events of a stream."""
        if self.asked.streamed:
            return b"".join(self.events)
        return self.asked.format.body(self.asked)

    @property
    def events(self) -> list[bytes]:
        """The events of a streamed answer."""
        assert self.asked.format.events is not None
        return self.asked.format.events(self.asked).all()

    def head(self, length: int | None = None, *more: tuple[str, str]) -> bytes:
        """Write the head of a good answer; without a length it goes in chunks."""
        return head(200, self.media, length, self.headers + more)

    def whole(self) -> bytes:
        """Write head and body of a good answer, with its length."""
        body = self.body
        return self.head(len(body)) + body
