"""What follows a stream event by event, in whatever format; and what those share that keep an answer beside its marks."""

from typing import Any, Protocol


class EventConsumer(Protocol):
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


class WatchedAssembly:
    """Keeps an answer; how far it has come is for its `_watcher` to say, another follower."""

    _watcher: EventConsumer

    @property
    def has_output(self) -> bool:
        """Whether output has come."""
        return self._watcher.has_output

    @property
    def ended(self) -> bool:
        """Whether nothing that may still come can change the answer."""
        return self._watcher.ended

    def wrong(self, *, done: bool = False) -> str | None:
        """Tell what is missing if nothing more comes; None of a complete answer."""
        return self._watcher.wrong(done=done)
