"""What follows a stream event by event, in whatever format; and what those share that keep an answer beside its marks."""

from typing import Any, Protocol


class Follower(Protocol):
    """Whatever takes the decoded data of events and knows how far the answer has come."""

    @property
    def has_output(self) -> bool:
        """Whether output has come."""

    @property
    def ended(self) -> bool:
        """Whether nothing that may still come can change the answer."""

    def add(self, said: dict[str, Any], /) -> None:
        """Take the data of one event; raise MalformedChunkError."""

    def wrong(self, *, done: bool = False) -> str | None:
        """Tell what is missing if nothing more comes; None of a complete answer.

        Args:
            done: whether the stream said that it is over.
        """


class Marked:
    """Keeps an answer; how far it has come is for its `_marks` to say, another follower."""

    _marks: Follower

    @property
    def has_output(self) -> bool:
        """Whether output has come."""
        return self._marks.has_output

    @property
    def ended(self) -> bool:
        """Whether nothing that may still come can change the answer."""
        return self._marks.ended

    def wrong(self, *, done: bool = False) -> str | None:
        """Tell what is missing if nothing more comes; None of a complete answer."""
        return self._marks.wrong(done=done)
