"""The provider on real sockets: model time follows the clock, replies become scripts on connections.

It listens on 127.0.0.1 only. Scenario time begins with the first request for work.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

from stormbreak.errors import ConfigurationError
from stormbreak.http.h1.request_parser import Headers, Request, UnreadableError
from stormbreak.provider.batch_api import BatchDesk
from stormbreak.provider.canned_answers import CannedAnswer, answer_for
from stormbreak.provider.capacity_model import Part, ProviderModel, Reply
from stormbreak.provider.chance import mix
from stormbreak.provider.client_record import ClientRecord, Record
from stormbreak.provider.connection import Connection
from stormbreak.provider.counters import Billing, Tally, peak_arrivals
from stormbreak.provider.fault_kinds import CONDITIONS, REFUSALS, WELL_FORMED, Kind
from stormbreak.provider.faults import answered
from stormbreak.provider.faults.play import FaultContext
from stormbreak.provider.faults.refusals import refused
from stormbreak.provider.formats.base import ParsedRequest, Refusal
from stormbreak.provider.formats.registry import FORMATS, understand
from stormbreak.provider.routes import Routes, format_at
from stormbreak.provider.scenario import Scenario
from stormbreak.provider.scripts import Script
from stormbreak.provider.throttle_headers import limit_headers, retry_after_headers

# ---------------------------------------------------------------- scenario time
# One timer serves all requests: it fires at most once a millisecond.

_TICK = 0.001
_IDLE_TICK = 0.25  # no request waits, but background traffic continues


class Pace:
    """Converts between scenario seconds and the monotonic clock."""

    def __init__(self, speed: float, ring: Callable[[], None]) -> None:
        self.speed = speed
        self._ring = ring
        self._began: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    @property
    def running(self) -> bool:
        return self._began is not None

    def begin(self) -> None:
        if self._began is None:
            self._began = time.monotonic()

    def stop(self) -> None:
        """Reset scenario time to before its start."""
        self._cancel()
        self._began = None

    def now(self) -> float:
        """Return the scenario time; 0 before it begins."""
        return 0.0 if self._began is None else (time.monotonic() - self._began) * self.speed

    def aim(self, due: float | None, *, busy: bool) -> None:
        """Fire at the scenario time `due` or slightly later; much later if no request waits."""
        if due is None or self._began is None:
            return
        now = time.monotonic()
        at = max(self._began + due / self.speed, now + (_TICK if busy else _IDLE_TICK))
        if self._timer is not None and self._timer_at <= at:
            return
        self._cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(at - now, self._rung)

    def _rung(self) -> None:
        self._timer = None
        self._ring()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


# ---------------------------------------------------------------- request observer


class RequestObserver(Protocol):
    """Observes requests, on the provider's event loop."""

    def received(self, request: ParsedRequest, at: float) -> None:
        """A complete, valid request has arrived."""

    def answered(self, request: ParsedRequest, at: float) -> None:
        """A good answer to it was written completely to an open connection."""


# ---------------------------------------------------------------- server

HOST = "127.0.0.1"
NO_MODEL = ""  # of requests about files and batches


class _Exchange(NamedTuple):
    """A request in the model, and all inputs of its answer."""

    connection: Connection
    keep_alive: bool
    parsed: ParsedRequest
    other: ParsedRequest  # another request, for wrong answers
    record: Record
    rate_limit_headers: Headers  # after this request was counted
    request: Request | None = None  # about a file or a batch


class ProviderServer:
    """Serves one scenario."""

    def __init__(self, scenario: Scenario, *, seed: int = 0, speed: float | None = None) -> None:
        self.scenario = scenario
        self.seed = seed
        self.speed = scenario.speed if speed is None else speed
        self.port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._opened = 0
        self._heads = 0  # requests whose head came before their body
        # The digest of the last request, and the answer chosen for it.
        self._previous: tuple[str, CannedAnswer | None] = "", None
        self._pace = Pace(self.speed, self._deliver_due)
        self._waiting: dict[int, _Exchange] = {}
        self._numbers: dict[Connection, int] = {}
        self._observer: RequestObserver | None = None
        self._routes = Routes(scenario.provider, seed=seed, stats=self.stats, reset=self.reset)
        self._begin()

    # ------------------------------------------------------------ called by its owner

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.port}/v1"

    async def start(self, port: int = 0) -> None:
        """Listen; port 0 picks a free one."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Connection(self), HOST, port, backlog=4096
            )
        except OSError as error:
            # asyncio's own message is longer
            reason = os.strerror(error.errno) if error.errno else error.strerror
            raise ConfigurationError(f"cannot listen on {HOST} port {port}: {reason}") from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._pace.stop()
        if self._server is not None:
            self._server.close()
            for connection in tuple(self._connections):
                connection.drop()
            await self._server.wait_closed()

    def reset(self) -> None:
        """Restart the scenario with the next request; connections that wait for an answer are closed."""
        for exchange in tuple(self._waiting.values()):
            exchange.connection.drop()
        self._begin()

    def play(self, scenario: Scenario, observer: RequestObserver | None = None) -> None:
        """Reset, with another scenario and observer; models and key requirement stay."""
        self.scenario = scenario
        self._observer = observer
        self.reset()

    def begin(self) -> None:
        """Start scenario time now instead of with the first request."""
        self._pace.begin()

    @property
    def now(self) -> float:
        return self._pace.now()

    def stats(self) -> dict[str, Any]:
        """Return the counts since the start or the last reset."""
        if self._pace.running:
            self._deliver_due()
            self._desk.advance(self._pace.now(), int(time.time()))
        model = self._model
        return {
            "scenario": self.scenario.name,
            "seed": self.seed,
            "speed": self.speed,
            "time": round(self._pace.now(), 3),
            "arrivals": model.clients.arrivals,
            **self._client_record.summary(),
            "billed": self.billing.summary(),
            "faults": self._client_record.faults | _silent(model.clients),
            "in_service": model.busy,
            "queue": model.queued,
            "waiting": len(self._waiting),
            "peak_attempts_per_second": peak_arrivals(model.clients, model.background),
            "clients": _traffic_counts(model.clients),
            "background_traffic": _traffic_counts(model.background),
            "connections": {"open": len(self._connections), "opened": self._opened},
        }

    # ------------------------------------------------------------ called by connections

    def opened(self, connection: Connection) -> int:
        self._connections.add(connection)
        self._opened += 1
        return self._opened

    def lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        number = self._numbers.pop(connection, None)
        if number is not None:
            del self._waiting[number]
            self._model.abandon(number, self._pace.now())

    def unreadable(self, connection: Connection, error: UnreadableError) -> None:
        self._send_error(connection, Refusal(error.status, str(error)), "", keep_alive=False)

    def begun(self, request: Request) -> Script | None:
        """Answer a request early with the answer to another, if the scenario has this fault."""
        if request.path not in FORMATS or request.method != "POST":
            return None
        self._heads += 1
        if not self._model.answers_early(self._pace.now(), self._heads):
            return None
        self._pace.begin()
        self._client_record.faults[Kind.EARLY_ANSWER.value] += 1
        self._client_record.statuses["200"] += 1
        other = ParsedRequest(
            FORMATS[request.path], "storm-1", self._previous[0], b"", {"input": ""}, False
        )
        return answered(FaultContext(other, self._routes.headers(), other), None)

    def handle(self, connection: Connection, request: Request) -> None:
        """Pass work to the model; answer everything else at once."""
        format_ = FORMATS.get(request.path)
        if self._desk.serves(request):
            self._work_on_batches(connection, request)
            return
        if format_ is None or request.method != "POST":
            script = self._routes.answer(request)
            connection.play(script, keep_alive=request.keep_alive, done=None)
            return
        wrong = self._routes.unauthorized(request)
        parsed = wrong or understand(format_, request.headers, request.body)
        if isinstance(parsed, Refusal):
            self._send_error(connection, parsed, request.path, keep_alive=request.keep_alive)
        else:
            self._work_on(connection, request, parsed)

    def _send_error(
        self, connection: Connection, refusal: Refusal, path: str, *, keep_alive: bool
    ) -> None:
        self._client_record.statuses[str(refusal.status)] += 1
        connection.play(self._routes.error(refusal, path), keep_alive=keep_alive, done=None)

    # ------------------------------------------------------------ work

    def _work_on_batches(self, connection: Connection, request: Request) -> None:
        """Pass a request about a file or a batch to the model, as work without tokens; it is done with its answer."""
        wrong = self._routes.unauthorized(request)
        if wrong is not None:
            self._send_error(connection, wrong, request.path, keep_alive=request.keep_alive)
            return
        essence = f"{request.method} {request.path}?{request.query}".encode()
        digest = blake2b(essence + request.body, digest_size=8).hexdigest()
        format_ = format_at(request.path)._replace(events=None)
        parsed = ParsedRequest(format_, NO_MODEL, digest, essence, {}, streamed=False)
        self._work_on(connection, request, parsed)

    def _work_on(self, connection: Connection, request: Request, parsed: ParsedRequest) -> None:
        self._pace.begin()
        is_call = parsed.model != NO_MODEL
        record = self._client_record.record_attempt(
            parsed.digest,
            time.monotonic(),
            connection.number,
            request.headers.get(b"idempotency-key"),
            is_call=is_call,
        )
        if self._observer is not None and is_call:
            self._observer.received(parsed, self._pace.now())
        key = parsed.key + record.attempts
        parsed = parsed._replace(
            fills=self.scenario.provider.use_max_tokens,
            canned=answer_for(
                self.scenario.answers if is_call else (),
                parsed.payload,
                self._model.clients.arrivals + 1,
            ),
        )
        number = self._model.arrive(
            self._pace.now(),
            key,
            streamed=parsed.streamed,
            tokens=parsed.tokens if is_call else 0,
            attempt=record.attempts,
            text=parsed.essence,
        )
        if self._model.has(number) and is_call:
            self.billing.arrived(number, parsed)
        other = self._other_response(parsed) if is_call else parsed
        rate_limit_headers = self._rate_limit_headers()
        self._waiting[number] = _Exchange(
            connection,
            request.keep_alive,
            parsed,
            other,
            record,
            rate_limit_headers,
            None if is_call else request,
        )
        self._numbers[connection] = number
        self._deliver_due()

    def _other_response(self, parsed: ParsedRequest) -> ParsedRequest:
        """Copy this request with the digest and answer of the previous one, or with new ones if they are the same."""
        (digest, canned), self._previous = self._previous, (parsed.digest, parsed.canned)
        return parsed._replace(
            digest=f"{mix(parsed.key):016x}" if digest == parsed.digest else digest,
            canned=None if canned == parsed.canned else canned,
        )

    def _rate_limit_headers(self) -> Headers:
        limit = self.scenario.limit
        if limit is None or limit.headers is None:
            return ()
        limit_states = [
            state._replace(reset=state.reset / self.speed)
            for state in self._model.limit_states(self._pace.now())
        ]
        return limit_headers(limit.headers, limit_states, time.time())

    def _deliver(self, reply: Reply) -> None:
        exchange = self._waiting.get(reply.request)
        if exchange is None:
            return
        if reply.part is Part.WHOLE:
            self._finish(exchange.connection, reply.request)
            if exchange.parsed.streamed and not _is_refusal(reply):
                return  # the stream plays since its first token
        if reply.fault is not None:
            self._client_record.faults[reply.fault.kind.value] += 1
        refusal = None
        if exchange.request is not None and not _is_refusal(reply):
            refusal, exchange = self._done_at_desk(exchange.request, exchange)
        script = refusal or self._script(reply, exchange)
        self._client_record.statuses[str(script.status or "none")] += 1
        done = partial(self._written, reply, exchange)
        exchange.connection.play(script, keep_alive=exchange.keep_alive, done=done)

    def _done_at_desk(
        self, request: Request, exchange: _Exchange
    ) -> tuple[Script | None, _Exchange]:
        """Handle a request about a file or a batch: its answer may still get lost."""
        done = self._desk.act(request, self._pace.now(), time.time(), self.base_url)
        if isinstance(done, Refusal):
            return self._routes.error(done, request.path), exchange
        answer = exchange.parsed._replace(
            format=exchange.parsed.format._replace(body=lambda _: done)
        )
        return None, exchange._replace(parsed=answer, other=answer)

    def _processed(self, row: ParsedRequest) -> None:
        """Bill and record a row that a batch has answered."""
        self.billing.add(row)
        record = self._client_record.record_attempt(row.digest, time.monotonic(), 0, None)
        record.answers += 1

    def _written(self, reply: Reply, exchange: _Exchange) -> None:
        """Count a good answer once it is completely written; a stream may end shortly before the model's work."""
        if reply.part is Part.FIRST:
            self._finish(exchange.connection, reply.request)
        if reply.fault is None or reply.fault.kind in WELL_FORMED:
            exchange.record.answers += 1
            if self._observer is not None and exchange.request is None:
                self._observer.answered(exchange.parsed, self._pace.now())

    def _finish(self, connection: Connection, number: int) -> None:
        if self._numbers.get(connection) == number:  # else it belongs to a run before the reset
            del self._numbers[connection], self._waiting[number]

    def _script(self, reply: Reply, exchange: _Exchange) -> Script:
        fault = reply.fault
        headers = self._routes.headers() + exchange.rate_limit_headers
        if fault is not None and _is_refusal(reply):
            waits = self._wait(reply, exchange)
            return refused(fault.kind, exchange.parsed.format, headers + waits)
        play = FaultContext(
            exchange.parsed,
            headers,
            exchange.other,
            lasting=(reply.done_at - reply.at) / self.speed,
            slower=fault.added_latency / self.speed if fault else 0.0,
            after=fault.respond_after / self.speed if fault else 0.0,
        )
        return answered(play, fault.kind if fault else None)

    def _wait(self, reply: Reply, exchange: _Exchange) -> Headers:
        if reply.fault is None or reply.retry_after is None:
            return ()
        form = reply.fault.retry_after_form
        headers, promise = retry_after_headers(form, reply.retry_after / self.speed, time.time())
        if promise is not None:
            until = time.monotonic() + promise
            self._client_record.promised(exchange.record, until, form, exchange.connection.number)
        return headers

    # ------------------------------------------------------------ time

    def _begin(self) -> None:
        self._pace.stop()
        self.billing = Billing()
        self._model = ProviderModel(self.scenario, self.seed, self.billing.ended)
        self._client_record = ClientRecord()
        self._desk = BatchDesk(self.scenario.batches, seed=self.seed, processed=self._processed)
        self._heads = 0
        self._previous = f"{mix(self.seed):016x}", None
        self._waiting.clear()
        self._numbers.clear()

    def _deliver_due(self) -> None:
        for reply in self._model.advance(self._pace.now()):
            self._deliver(reply)
        self._pace.aim(self._model.next_event_at(), busy=bool(self._waiting))


def _is_refusal(reply: Reply) -> bool:
    return reply.fault is not None and reply.fault.kind in REFUSALS | CONDITIONS


def _silent(tally: Tally) -> Counter[str]:
    """Return the faults without an answer."""
    return Counter({name: tally.outcomes.get(name, 0) for name in ("hang", "dropped")})


def _traffic_counts(tally: Tally) -> dict[str, Any]:
    return {
        "arrivals": tally.arrivals,
        "outcomes": dict(tally.outcomes),
        "abandoned": tally.abandoned,
        "inside": tally.inside,
        "work_seconds": round(tally.work, 3),
        "wasted_seconds": round(tally.wasted_work, 3),
        "series": tally.series(),
    }
