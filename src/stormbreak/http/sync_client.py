"""The client for code that blocks: `AsyncClient`, asked from any thread, on the background loop of the process.

Whoever waits can be interrupted: KeyboardInterrupt closes the connection of the call, and frees what it held.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from types import TracebackType
from typing import Any, Self

from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.core.target_state import Listener
from stormbreak.drivers.background_loop import BACKGROUND
from stormbreak.drivers.listeners import Attached
from stormbreak.http.client import AsyncClient
from stormbreak.http.stream import Stream, StreamEvent
from stormbreak.types import Answer, Priority, Target, Usage


class Client:
    """Calls an OpenAI-compatible API through an engine; its arguments are those of `AsyncClient`.

    One client serves any number of threads, each of which waits for its own calls. It may be used and closed in any of
    them; not in a listener to its events. A function that makes degraded answers may be a coroutine function.
    """

    def __init__(self, provider: str | None = None, **settings: Any) -> None:
        self._client = AsyncClient(provider, **settings)

    @classmethod
    def of(cls, client: AsyncClient) -> Self:
        """Make a client that blocks of one that does not."""
        blocking = cls.__new__(cls)
        blocking._client = client  # noqa: SLF001 - of this very class
        return blocking

    @property
    def policy(self) -> Policy:
        """What the engine goes by."""
        return self._client.policy

    @property
    def engine(self) -> Engine:
        """What decides."""
        return self._client.engine

    @property
    def base_url(self) -> str:
        """Where calls go."""
        return self._client.base_url

    def request(
        self,
        endpoint: str,
        payload: Mapping[str, Any],
        *,
        priority: Priority | None = None,
        deadline: float | None = None,
        tenant: str = "",
    ) -> Answer:
        """Send `payload` to `endpoint` and wait for the answer, as `AsyncClient.request` does."""
        client = self._client
        return BACKGROUND.run(
            client.request(endpoint, payload, priority=priority, deadline=deadline, tenant=tenant)
        )

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        priority: Priority | None = None,
        deadline: float | None = None,
        tenant: str = "",
        **options: Any,
    ) -> Answer:
        """Ask for a chat completion, as `AsyncClient.chat` does."""
        said = self._client.chat(
            messages, model=model, priority=priority, deadline=deadline, tenant=tenant, **options
        )
        return BACKGROUND.run(said)

    def stream(
        self,
        endpoint: str,
        payload: Mapping[str, Any],
        *,
        priority: Priority | None = None,
        deadline: float | None = None,
        tenant: str = "",
    ) -> "BlockingStream":
        """Send `payload`, wait for the first output, and hand over the answer while it comes.

        Use it in a `with`. What may be raised is told at `AsyncClient.stream`.
        """
        opening = self._client.stream(
            endpoint, payload, priority=priority, deadline=deadline, tenant=tenant
        )
        return BlockingStream(BACKGROUND.run(opening.opened()))

    def target(self, model: str) -> Target:
        """The target that calls for `model` go to first."""
        return self._client.target(model)

    def subscribe(self, listener: Listener) -> Attached:
        """Have `listener` called with every event, on whatever thread, until what is returned is detached.

        It may not make calls on this client.
        """
        return self._client.subscribe(listener)

    def snapshot(self) -> dict[str, Any]:
        """What stands where: every target's circuit, queue, limit and cooldown, the retry budget, and each call."""
        return self._client.snapshot()

    def isolate(self, target: Target | str, *, duration: float | None = None) -> None:
        """Open a circuit by hand, as `AsyncClient.isolate` does."""
        self._client.isolate(target, duration=duration)

    def reset(self, target: Target | str) -> None:
        """Close a circuit by hand, as `AsyncClient.reset` does."""
        self._client.reset(target)

    def save_circuits(self) -> dict[str, Any]:
        """The circuits that are not closed, as `AsyncClient.save_circuits` gives them."""
        return self._client.save_circuits()

    def restore_circuits(self, values: Mapping[str, Any]) -> None:
        """Take up what `save_circuits` gave, as `AsyncClient.restore_circuits` does."""
        self._client.restore_circuits(values)

    def drain(self) -> None:
        """Let what was sent be answered, and end as CANCELLED every call that waits, now or later."""
        self._client.drain()

    def close(self) -> None:
        """End it for good: every call, now or later, ends with a `ClientClosedError`, and every stream for its reader.

        From any thread; a second time does nothing.
        """
        self._client.stop()
        BACKGROUND.finish(self._client.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


class BlockingStream:
    """A `Stream` for code that blocks: iterate over its events, over `texts()` or `raw()`, or ask for the `answer()`.

    It is read in one of these ways, by one thread at a time. Close it, or use it in a `with`; another thread may close
    it, too, and whoever reads is told. An interrupt while it is read closes it.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._ready: deque[StreamEvent] = deque()

    @property
    def target(self) -> Target:
        """Who answers."""
        return self._stream.target

    @property
    def source(self) -> str:
        """Where it comes from, as that of an `Answer`."""
        return self._stream.source

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._stream.status

    @property
    def request_id(self) -> str | None:
        """The provider's id of the request."""
        return self._stream.request_id

    @property
    def attempts(self) -> int:
        """How often something was sent."""
        return self._stream.attempts

    @property
    def waited(self) -> float:
        """Seconds spent unserved: queue, cooldown, backoff."""
        return self._stream.waited

    @property
    def maybe_processed(self) -> int:
        """Of the attempts before, those that may have been processed and billed all the same."""
        return self._stream.maybe_processed

    @property
    def usage(self) -> Usage | None:
        """Tokens as the provider counted them; None until the stream has ended rightly."""
        return self._stream.usage

    @property
    def cost(self) -> Decimal | None:
        """What it costs in US dollars; None until the stream has ended rightly, and where that is not known."""
        return self._stream.cost

    def __iter__(self) -> Self:
        self._stream.__aiter__()
        return self

    def __next__(self) -> StreamEvent:
        """Wait for the next event; raises what `Stream` raises."""
        if not self._ready:  # a hop from thread to thread for all that came together
            self._ready.extend(BACKGROUND.run(self._stream.together()))
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def texts(self) -> Iterator[str]:
        """Iterate over the pieces of text of the first choice."""
        self._stream.texts()
        return self._texts()

    def raw(self) -> Iterator[bytes]:
        """Iterate over the bytes as they come, in whatever pieces."""
        self._stream.raw()
        return self._raw()

    def answer(self) -> Answer:
        """Read it to its end, and assemble the answer that the same call would have got unstreamed."""
        return BACKGROUND.run(self._stream.answer())

    def close(self) -> None:
        """Close the connection, and free what the call holds. A second time does nothing."""
        BACKGROUND.finish(self._stream.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._stream)

    def _texts(self) -> Iterator[str]:
        for event in iter(lambda: next(self, None), None):
            text = self._stream.text_in(event)
            if text:
                yield text

    def _raw(self) -> Iterator[bytes]:
        while (chunk := BACKGROUND.run(self._stream.piece())) is not None:
            yield chunk
