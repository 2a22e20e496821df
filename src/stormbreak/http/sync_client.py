"""The client for blocking code: an `AsyncClient` that runs on the calling threads, of any number.

An interrupt of the waiting thread (KeyboardInterrupt) closes the connection of the call, and frees everything it held.
"""

from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from decimal import Decimal
from functools import wraps
from operator import attrgetter
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from stormbreak.drivers.blocking import run
from stormbreak.http.client import AsyncClient, ClientControls
from stormbreak.http.stream import Stream, StreamEvent
from stormbreak.types import Answer, Priority, Usage

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def _blocking(
    method: Callable[Concatenate[AsyncClient, Arguments], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate["Client", Arguments], Result]:
    """Make a method of `Client` that waits for the method of `AsyncClient`."""

    @wraps(method)
    def wait(self: "Client", /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return run(method(self._client, *args, **kwargs))

    return wait


class Client(ClientControls):
    """Calls an OpenAI-compatible API through an engine; its arguments are those of `AsyncClient`.

    Any number of threads may share it; each waits for its own calls. Do not use it in a listener to its events. A
    function for degraded answers may be a coroutine function.
    """

    def __init__(self, provider: str | None = None, **settings: Any) -> None:
        self._use(AsyncClient(provider, **settings))

    @classmethod
    def of(cls, client: AsyncClient) -> Self:
        """Make a blocking client of an asynchronous one."""
        blocking = cls.__new__(cls)
        blocking._use(client)  # noqa: SLF001 - of this very class
        return blocking

    def _use(self, client: AsyncClient) -> None:
        self._client = client = client.for_blocking()
        self.engine = client.engine
        self._resolver = client._resolver  # noqa: SLF001 - the other half of it
        self._driver = client._driver  # noqa: SLF001

    request = _blocking(AsyncClient.request)
    chat = _blocking(AsyncClient.chat)

    def stream(
        self,
        endpoint: str,
        payload: Mapping[str, Any],
        *,
        priority: Priority | None = None,
        deadline: float | None = None,
        tenant: str = "",
    ) -> "BlockingStream":
        """Send `payload`, wait for the first output, and return the answer as a stream.

        Use it in a `with`. It raises the same errors as `AsyncClient.stream`.
        """
        pending = self._client.stream(
            endpoint, payload, priority=priority, deadline=deadline, tenant=tenant
        )
        return BlockingStream(run(pending.opened()))

    def close(self) -> None:
        """Close the client: every call, now or later, ends with a `ClientClosedError`, and every stream breaks.

        From any thread. Idempotent.
        """
        run(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _of_stream(name: str) -> Any:
    """Make a property of `BlockingStream` that returns that of its `Stream`."""
    return property(attrgetter(f"_stream.{name}"), doc=getattr(Stream, name).__doc__)


class BlockingStream:
    """A `Stream` for blocking code: iterate over its events, over `texts()` or `raw()`, or ask for the `answer()`.

    Read it in one of these ways, by one thread at a time. Close it, or use it in a `with`. Another thread may close it,
    too: then the read raises. An interrupt during a read closes it.
    """

    def __init__(self, stream: Stream) -> None:
        self.target = stream.target
        self.source = stream.source  # as in an `Answer`
        self.status = stream.status
        self.request_id = stream.request_id
        self._stream = stream
        self._ready: deque[StreamEvent] = deque()

    attempts: int = _of_stream("attempts")
    waited: float = _of_stream("waited")
    maybe_processed: int = _of_stream("maybe_processed")
    usage: Usage | None = _of_stream("usage")
    cost: Decimal | None = _of_stream("cost")

    def __iter__(self) -> Self:
        self._stream.__aiter__()
        return self

    def __next__(self) -> StreamEvent:
        """Wait for the next event; raise the same errors as `Stream`."""
        if not self._ready:
            self._ready.extend(self._stream.run(self._stream.next_events()))
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def texts(self) -> Iterator[str]:
        """Iterate over the pieces of text of the first choice."""
        self._stream.texts()
        return self._texts()

    def raw(self) -> Iterator[bytes]:
        """Iterate over the bytes as they come, in chunks of any size."""
        self._stream.raw()
        return self._raw()

    def answer(self) -> Answer:
        """Read the stream to its end, and assemble the answer of the same call without streaming."""
        return self._stream.run(self._stream.answer())

    def close(self) -> None:
        """Close the connection, and free everything that the call holds. Idempotent."""
        run(self._stream.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._stream)

    def _texts(self) -> Iterator[str]:
        for event in iter(lambda: next(self, None), None):
            text = self._stream.text_in(event)
            if text:
                yield text

    def _raw(self) -> Iterator[bytes]:
        while (chunk := self._stream.run(self._stream.next_chunk())) is not None:
            yield chunk
