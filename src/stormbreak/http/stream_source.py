"""The bytes of one streamed answer, looked at on their way: has it begun, has it failed, is it complete?

They pass through untouched. What they mean is for `llm` to say: a scanner, or an assembler where all of them is wanted
in one piece.
"""

from asyncio import CancelledError
from collections import deque
from collections.abc import Callable
from math import inf

from stormbreak.drivers.timeouts import AnsweredError
from stormbreak.http.endpoint import Origin
from stormbreak.http.exchange import (
    Asked,
    Received,
    StreamBody,
    outcome_of,
    reader_of,
    refused,
    request_of,
)
from stormbreak.http.h1.connection import ResponseStream, Wire
from stormbreak.http.redact import redact
from stormbreak.llm.classify import request_id_of
from stormbreak.llm.models import HttpResponse, ParsedResponse
from stormbreak.llm.rate_limit_headers import parse_rate_limits
from stormbreak.llm.stream_formats import FORMATS
from stormbreak.llm.stream_reader import StreamAssembler
from stormbreak.llm.stream_scanner import StreamScanner
from stormbreak.types import Outcome, Verdict

KEPT = 16 * 1024  # bytes of what came, for whoever wants to know what there was of a broken stream


class Source:
    """A streamed answer, read piece by piece.

    `lasts` are the types of the events that end it, beside the marker ``[DONE]``.
    `size` bytes have come so far. `held` is what came before anyone took anything, as it came.
    """

    def __init__(
        self,
        incoming: ResponseStream,
        asked: Asked,
        origin: Origin,
        *,
        stall_timeout: float | None,
        learn: bool,
    ) -> None:
        self.head = incoming.head
        self.size = 0
        self.held: list[bytes] = []
        kind = FORMATS.get(asked.shape)
        self.lasts = kind.lasts if kind else frozenset()
        self._incoming = incoming
        self._body = StreamBody(incoming)
        self._asked = asked
        self._api_key = origin.api_key
        self._stall = stall_timeout
        self._learn = learn
        self._scanner: StreamScanner | StreamAssembler = reader_of(
            StreamScanner, asked, incoming.head
        )
        self._kept: deque[bytes] = deque()
        self._kept_size = 0
        self._most: float = KEPT

    @property
    def failed(self) -> bool:
        """Whether the bytes that came last show that this is no complete answer."""
        return self._scanner.failed

    @property
    def is_plain(self) -> bool:
        """Whether this is no event stream, but one body."""
        return self._scanner.is_plain

    @property
    def request_id(self) -> str | None:
        """The provider's id of the request."""
        reading = ParsedResponse(Verdict.OK, request_id=request_id_of(self.head.headers))
        return self._without_echoes(reading, b"")[0].request_id

    @property
    def received(self) -> bytes:
        """The bytes that came; of a long stream the last `KEPT`, and what came in one piece with them."""
        return b"".join(self._kept)

    async def pull(self) -> bytes | Outcome:
        """Wait for the next bytes, or for the outcome of it all. Cancelling closes the connection."""
        scanner = self._scanner
        if scanner.failed:
            self._incoming.close()
            return self._judge()
        got = await self._body.read_into(scanner)
        if not isinstance(got, bytes):
            return self._with_limits(got)
        if not got:
            return self._judge()
        self._keep(got)
        return got

    async def begin(self) -> Outcome:
        """Wait for the first output: `committed`, with this as its value; or for the outcome of it all."""
        self._body.is_kept = True
        try:
            return await self._until_output()
        except CancelledError as cancel:
            outcome = self.complete()
            if outcome is None:
                raise
            raise AnsweredError(outcome, cancel) from None
        finally:
            self._body.release()

    async def _until_output(self) -> Outcome:
        while isinstance(got := await self.pull(), bytes):
            self.held.append(got)
            if self._scanner.first_output and not self._scanner.failed:
                if self._stall is not None:
                    self._incoming.hurry(self._stall)
                return Outcome(Verdict.OK, value=self, status=self.head.status, committed=True)
        return got

    def complete(self) -> Outcome | None:
        """Tell what came to a success, although its body has not ended; None if that is not known yet."""
        return self._judge() if self._scanner.whole and not self._scanner.failed else None

    def finished(self) -> Outcome | None:
        """Tell the same where its reader gives it up: then nothing more is needed than all finish reasons."""
        scanner = self._scanner
        return self._judge() if scanner.finished and not scanner.failed else None

    def assemble(self) -> None:
        """Put the answer together, of what was held and of all that comes; and keep all of it, for `received`."""
        self._scanner = self._assembled()
        self._kept = deque(self.held)
        self._most = inf

    def whole(self) -> Received:
        """Put together an answer that has come whole while it was held."""
        reading, body = self._without_echoes(*self._assembled().end())
        return Received(self.head.status, body, reading)

    def spoilt(self) -> Outcome:
        """Tell what it is that an event cannot be read which the scanner had no reason to look into."""
        detail = "invalid json in an event"
        status = self.head.status
        outcome = Outcome(Verdict.BROKEN, status=status, detail=detail, maybe_processed=True)
        return self._with_limits(outcome)

    def close(self) -> None:
        """Close the connection, unless the body has been read to its end; whoever reads is woken."""
        self._incoming.close()

    def _assembled(self) -> StreamAssembler:
        assembler = reader_of(StreamAssembler, self._asked, self.head)
        for chunk in self.held:
            assembler.feed(chunk)
        return assembler

    def _keep(self, chunk: bytes) -> None:
        kept = self._kept
        kept.append(chunk)
        self.size += len(chunk)
        self._kept_size += len(chunk)
        while self._kept_size - len(kept[0]) >= self._most:
            self._kept_size -= len(kept.popleft())

    def _judge(self) -> Outcome:
        reading, body = self._scanner.end()
        sent = self.head._replace(body=body)
        return outcome_of(sent, *self._without_echoes(reading, body), learn=self._learn)

    def _without_echoes(self, reading: ParsedResponse, body: bytes) -> tuple[ParsedResponse, bytes]:
        return redact(reading, body, api_key=self._api_key, asked=self._asked.body)

    def _with_limits(self, outcome: Outcome) -> Outcome:
        if not self._learn:
            return outcome
        return outcome._replace(
            rate_limits=parse_rate_limits(self.head.headers, self.head.received_at)
        )


class LocalSource:
    """An answer that came from no target, in one piece: there is nothing to read and nothing to close."""

    failed = False
    is_plain = True
    request_id = None
    lasts: frozenset[str] = frozenset()

    def __init__(self, outcome: Outcome) -> None:
        self._received: Received = outcome.value
        received = self._received
        self.head = HttpResponse(received.status, {}, b"", 0.0)
        self.received = received.body
        self.held: list[bytes] = [received.body]
        self.size = len(received.body)

    async def pull(self) -> bytes | Outcome:
        """Never called: it has ended."""
        raise AssertionError("an answer that is at hand has ended")

    def assemble(self) -> None:
        """It is whole."""

    def whole(self) -> Received:
        """The answer."""
        return self._received

    def spoilt(self) -> Outcome:
        """Never called: it was read as an answer before."""
        raise AssertionError("an answer that is at hand is sound")

    def complete(self) -> Outcome | None:
        """It has been told."""

    def finished(self) -> Outcome | None:
        """It has been told."""

    def close(self) -> None:
        """Nothing is open."""


async def begin(
    wire: Wire,
    origin: Origin,
    asked: Asked,
    *,
    idle_timeout: float | None,
    stall_timeout: float | None,
    within: float | None,
    learn: bool,
    came: Callable[[Source], None] | None = None,
) -> tuple[Outcome, Source | None]:
    """Send once and wait for the first output, or for the end; `came` hears of an answer that came as it was cancelled.

    The connection is closed in the end, unless the outcome is `committed`: then the source owns it.
    """
    incoming = await wire.open(request_of(origin, asked, idle_timeout, within))
    if isinstance(incoming, Outcome):
        return incoming, None
    if not incoming.head.succeeded:
        return await refused(incoming, origin, asked, learn=learn), None
    source = Source(incoming, asked, origin, stall_timeout=stall_timeout, learn=learn)
    outcome: Outcome | None = None
    try:
        outcome = await source.begin()
    except AnsweredError:
        if came is not None:
            came(source)
        raise
    finally:
        if outcome is None or not outcome.committed:
            source.close()
    return outcome, source
