"""An answer that its caller reads while it arrives.

A complete stream simply ends. Any other end raises `StreamBrokenError`: nothing is retried after the first output has
reached the caller.
"""

import warnings
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable
from decimal import Decimal
from typing import Any, NamedTuple, NoReturn, Self, TypeVar

from stormbreak.core.explain import add_attempt_notes
from stormbreak.cost.price_source import PriceOf
from stormbreak.drivers.blocking import run
from stormbreak.drivers.blocking_driver import BlockingDelivery
from stormbreak.drivers.delivery import Delivery
from stormbreak.errors import broken_stream
from stormbreak.http.pricing import cost_of
from stormbreak.http.response import Response, answer_of
from stormbreak.http.stream_source import LocalSource, Source
from stormbreak.llm.sse import EventReader
from stormbreak.llm.stream_event_text import is_last, is_readable, text_of
from stormbreak.llm.surrogates import decoded
from stormbreak.types import TARGET, Answer, CallResult, Target, Usage, Verdict

T = TypeVar("T")

_DONE = b"[DONE]"
_ANSWER = "an answer"


class StreamEvent(NamedTuple):
    """One event of a stream: its name, if any, and its data. Its repr shows no text."""

    name: str
    data: bytes

    def json(self) -> Any:
        """Decode the data; lone surrogates, which some models write, are replaced."""
        return decoded(self.data)

    def __repr__(self) -> str:
        return f"StreamEvent({self.name!r}, {len(self.data)} bytes)"


class Stream:
    """A stream that has begun, or is complete: iterate over its events, over `texts()` or `raw()`, or await `answer()`.

    Read it in one of these ways, by one task. The marker ``[DONE]`` is not an event. An answer in one piece, such as a
    local answer (see `source`), is a single event. Close the stream with `aclose`, or use it in an ``async with``: it
    holds a connection and its place in the limits. If it is dropped, it is closed with a ResourceWarning. A cancel
    during a read closes it.
    """

    def __init__(
        self,
        target: Target,
        source: Source | LocalSource,
        opened: Delivery | CallResult,
        came_from: str = TARGET,
        *,
        price_of: PriceOf | None = None,
        client: object = None,
    ) -> None:
        self.target = target
        self.source = came_from  # as in an `Answer`
        self.head = source.head
        self.status = source.head.status
        self.request_id = source.request_id
        self._source = source
        self._price_of = price_of
        self._client = client  # kept alive, so that its settings can close it
        self._held = deque(source.held)
        self._delivery = opened if isinstance(opened, Delivery) else None
        self._ended = None if isinstance(opened, Delivery) else opened
        self._closed = False
        self._reading = False
        self._malformed = False
        self._at_end = False
        self._has_text = False
        self._is_plain = source.is_plain
        self._as = ""  # the kind of iteration in use
        self._reader: EventReader | None = EventReader()
        self._ready: deque[StreamEvent] = deque()
        if self._delivery is not None:
            self._delivery.cut = source.close
            self._delivery.complete = source.complete
            if self._delivery.over:  # the client was closed meanwhile
                source.close()

    @property
    def attempts(self) -> int:
        """The number of attempts sent."""
        return self._so_far[0]

    @property
    def waited(self) -> float:
        """The seconds spent unserved: queue, cooldown, backoff."""
        return self._so_far[1]

    @property
    def maybe_processed(self) -> int:
        """The number of earlier attempts that may have been processed and billed."""
        return self._so_far[2]

    @property
    def usage(self) -> Usage | None:
        """The tokens as counted by the provider; None until the stream is complete."""
        response = None if self._ended is None else self._ended.outcome.value
        return response.parsed.usage if isinstance(response, Response) else None

    @property
    def cost(self) -> Decimal | None:
        """The cost in US dollars, as in an `Answer`; None until the stream is complete."""
        usage = self.usage
        if usage is None:
            return None
        return cost_of(self._price_of, self.target, usage, self.source)

    @property
    def failed(self) -> bool:
        """Whether the last bytes show that the answer is incomplete: the next read raises."""
        return self._source.failed

    def __aiter__(self) -> Self:
        self._read_as("events")
        return self

    async def __anext__(self) -> StreamEvent:
        """Wait for the next event.

        Raises:
            StreamBrokenError: it was cut, went silent, reported an error, or is malformed.
        """
        ready = self._ready
        while not ready:
            if self._malformed:
                self._break()
            self._take(await self.next_chunk())
        return ready.popleft()

    async def next_events(self) -> list[StreamEvent]:
        """Wait for the next event, and return it with all others that have arrived; empty at the end."""
        try:
            events = [await self.__anext__()]
        except StopAsyncIteration:
            return []
        events += self._ready
        self._ready.clear()
        return events

    def texts(self) -> AsyncIterator[str]:
        """Iterate over the pieces of text of the first choice."""
        self._read_as("texts")
        return _Iterator(self._next_text)

    def raw(self) -> AsyncIterator[bytes]:
        """Iterate over the bytes as they come, in chunks of any size."""
        self._read_as("raw bytes")
        return _Iterator(self._next_raw)

    async def next_chunk(self) -> bytes | None:
        """Wait for the next bytes; None at the end. Only for a stream that is read as `raw`."""
        if self._held:
            return self._held.popleft()
        if self._closed or self._ended is not None:
            self._raise_if_failed()
            return None
        if self._reading:
            raise RuntimeError("another task reads the stream")
        source = self._source
        try:
            got = None
            while got is None:
                self._reading = True
                await source.wait()
                self._reading = False
                got = source.take()
        except BaseException as error:
            self._reading = False
            self._give_up(dropped=isinstance(error, GeneratorExit))
            raise
        if isinstance(got, bytes):
            return got
        assert self._delivery is not None
        self._ended = self._delivery.end(got)
        self._raise_if_failed()
        return None

    def run(self, reading: Coroutine[Any, Any, T]) -> T:
        """Run a read on this blocked thread, at the latest until the deadline of the call."""
        delivery = self._delivery
        if isinstance(delivery, BlockingDelivery):
            return delivery.read(reading)
        return run(reading)

    async def _next_text(self) -> str:
        ready = self._ready
        while True:
            while not ready:  # without `__anext__`, which saves a coroutine for each text
                if self._malformed:
                    self._break()
                self._take(await self.next_chunk())
            text = self.text_in(ready.popleft())
            if text:
                return text

    async def _next_raw(self) -> bytes:
        chunk = await self.next_chunk()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    def text_in(self, event: StreamEvent) -> str:
        """Return the text in the next event of the stream; empty if it has none."""
        if not self._is_plain:
            text = text_of(event.data, begun=self._has_text)
            self._has_text = self._has_text or bool(text)
            return text
        assert self._ended is not None
        return str(self._ended.outcome.value.parsed.text)

    async def answer(self) -> Answer:
        """Read the stream to its end, and assemble the answer of the same call without streaming.

        Raises:
            StreamBrokenError: it was cut, went silent, reported an error, or is malformed.
        """
        delivery = self._delivery
        late = delivery is None or delivery.over  # nothing was assembled in time
        if not self._as and not late:
            self._source.assemble()
        self._read_as(_ANSWER)
        while await self.next_chunk() is not None:
            pass
        assert self._ended is not None
        ended = self._ended
        if late:
            ended = ended._replace(outcome=ended.outcome._replace(value=self._source.whole()))
        return answer_of(self.target, ended, self._price_of)

    async def aclose(self) -> None:
        """Close the connection, and free everything that the call holds. Idempotent.

        A complete stream counts as a success; any other as neither success nor failure.
        """
        if self._over:
            return
        self._give_up()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        delivery = getattr(self, "_delivery", None)
        if delivery is not None and not delivery.over:
            delivery.drop(self._source.finished())
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=1, source=self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        if self._ended is not None:
            state = str(self._ended.outcome.verdict)
        return f"<Stream {self.target} {state}, {self._source.size} bytes>"

    @property
    def _over(self) -> bool:
        return self._closed or self._ended is not None

    @property
    def _so_far(self) -> tuple[int, float, int]:
        ended = self._ended
        if ended is not None:
            return ended.attempts, ended.waited, ended.maybe_processed
        assert self._delivery is not None
        return self._delivery.command[2:5]

    def _read_as(self, reading: str) -> None:
        if self._as not in ("", reading):
            raise RuntimeError(f"the stream is already read as {self._as}")
        self._as = reading
        if reading != _ANSWER and self._delivery is not None:
            self._source.held = []

    def _raise_if_failed(self) -> None:
        ended = self._ended
        if ended is None or self._closed:
            raise RuntimeError("the stream was closed")
        if ended.outcome.verdict is not Verdict.OK:
            self._raise(ended)

    def _raise(self, ended: CallResult) -> NoReturn:
        source = self._source
        error = broken_stream(self.target, ended, size=source.size, received=source.received)
        raise add_attempt_notes(error) from ended.outcome.error

    def _give_up(self, *, dropped: bool = False) -> None:
        """Free everything; a complete answer counts as a success. `dropped`: called by a finalizer."""
        delivery, finished = self._delivery, self._source.finished()
        if delivery is not None and dropped:
            delivery.drop(finished)
        elif delivery is not None and finished is not None:
            self._ended = delivery.end(finished)
        self._closed = True
        self._held.clear()
        self._ready.clear()
        self._source.close()
        if delivery is not None and not dropped:
            delivery.close()

    def _take(self, chunk: bytes | None) -> None:
        """Queue the events that a chunk completes, or those at the end (None)."""
        if chunk is None:
            self._take_rest()
        elif not self._source.failed and not self._is_plain:  # a failure is raised next
            reader = self._reader
            assert reader is not None
            self._add(reader.split(chunk) or reader.feed(chunk))

    def _add(self, events: Iterable[tuple[bytes, bytes]]) -> None:
        """Queue the events of the answer; later events are not part of it."""
        for name, data in events:
            if self._at_end:
                return
            if is_readable(data):
                self._ready.append(StreamEvent(name.decode(errors="replace") if name else "", data))
                self._at_end = is_last(data, self._source.last_events)
            elif data.strip() == _DONE:
                self._at_end = True
            else:
                self._malformed = True
                return

    def _break(self) -> NoReturn:
        """End the stream for an event that is not JSON, since the scanner does not decode all events."""
        assert self._delivery is not None
        ended = self._delivery.end(self._source.malformed())
        assert ended is not None
        self._ended = ended
        self._raise(ended)

    def _take_rest(self) -> None:
        """Take the event that is open at the end, or the only one."""
        reader, self._reader = self._reader, None
        if reader is None:
            raise StopAsyncIteration
        if self._is_plain:
            assert self._ended is not None
            self._ready.append(StreamEvent("", self._ended.outcome.value.body))
            return
        self._add(reader.end())


class _Iterator(AsyncIterator[T]):
    """Iterates with a method of a stream, without an extra frame, since it runs for each chunk."""

    def __init__(self, following: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._following = following

    def __anext__(self) -> Coroutine[Any, Any, T]:
        return self._following()


class PendingStream:
    """A requested stream: await it, or use it in an ``async with``."""

    def __init__(self, opening: Coroutine[Any, Any, Stream]) -> None:
        self._opening = opening
        self._stream: Stream | None = None

    def __await__(self) -> Generator[Any, None, Stream]:
        return self._opening.__await__()

    async def opened(self) -> Stream:
        """Wait for the stream, as a coroutine."""
        return await self._opening

    async def __aenter__(self) -> Stream:
        self._stream = await self._opening
        return self._stream

    async def __aexit__(self, *_: object) -> None:
        if self._stream is not None:
            await self._stream.aclose()
