"""The formats in which an answer may be streamed, each with its own room, under one shape of interface."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from stormbreak.llm.chat import ChatAssembly, ChatWatcher, CompletionWatcher, TextAssembly
from stormbreak.llm.error_body import ProviderError, find_error
from stormbreak.llm.messages import END, MessageAssembly, MessagesWatcher
from stormbreak.llm.models import Shape
from stormbreak.llm.responses import ENDS, ResponseAssembly, ResponsesWatcher, error_in_event
from stormbreak.llm.stream_deltas import EventConsumer


class StreamAssembly(EventConsumer, Protocol):
    """A follower that keeps the answer."""

    def result(self) -> dict[str, Any]:
        """Give the answer as its unstreamed body would be."""


class StreamWatcher(EventConsumer, Protocol):
    """A follower that keeps only what tells how the stream went, and may be spared what is `quiet`."""

    @property
    def usage(self) -> Any:
        """The usage that has come."""

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended."""

    @property
    def reasons(self) -> list[str | None]:
        """Why each choice ended."""

    def quiet(self, block: bytes, /) -> bool:
        """Whether whole events, as they came, can be nothing but output, and need not be taken."""

    def usage_in(self, said: dict[str, Any], /) -> Any:
        """Find the usage in the data of a quiet event."""


class Format(NamedTuple):
    """How answers of one shape are streamed. `assembly` and `marks` are given how many choices are wanted.

    `last_events` are the types of the events that end a stream, beside ``[DONE]``: what comes after them is no part of it.
    """

    assembly: Callable[[int], StreamAssembly]
    marks: Callable[[int], StreamWatcher]
    find_error: Callable[..., ProviderError | None] = find_error
    last_events: frozenset[str] = frozenset()


FORMATS: Mapping[Shape, Format] = MappingProxyType(
    {
        Shape.CHAT: Format(ChatAssembly, ChatWatcher),
        Shape.COMPLETION: Format(TextAssembly, CompletionWatcher),
        Shape.RESPONSES: Format(
            ResponseAssembly, ResponsesWatcher, error_in_event, frozenset(ENDS)
        ),
        Shape.MESSAGES: Format(MessageAssembly, MessagesWatcher, last_events=frozenset({END})),
    }
)
