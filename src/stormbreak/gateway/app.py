"""The application of the gateway: reads a request, finds its key and its target, calls the engine, responds.

Data flows one way: connection, request, key, route, engine, response. Every request is counted in the metrics and gets
one line in the access log.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.gateway.client_call import GatewayCall, Limits, Opened
from stormbreak.gateway.errors import RefusedError, error_event, refusal
from stormbreak.gateway.keys import ClientKey, Guesses, LimitHolder, digest_of
from stormbreak.gateway.logs import RequestRecord
from stormbreak.gateway.metrics import GatewayMetrics
from stormbreak.gateway.request import (
    LOOKUPS,
    MODELS,
    ClientHead,
    check_route,
    client_key,
    credentials,
    read_head,
    read_request,
)
from stormbreak.gateway.response import our_headers, response_of
from stormbreak.gateway.routing import GatewayRules
from stormbreak.gateway.streaming import send_stream
from stormbreak.http.h1.request_parser import Request
from stormbreak.http.h1.server_connection import ServerConnection, ServerResponse
from stormbreak.http.stream_source import EVENT_STREAM
from stormbreak.llm.endpoints import shape_of

_COMMENT = b": waiting\n\n"
_CODES = {500: "internal_error", 503: "gateway_full"}  # for bytes that are not a readable request


@dataclass(slots=True)
class _Client:
    """Cached facts of a connection, from its last request head; `headers` is the same object."""

    rules: GatewayRules
    headers: Mapping[bytes, bytes] = field(repr=False)
    key: ClientKey
    head: ClientHead | None = None


class GatewayApp:
    """Answers the requests of all connections, by the current `rules`."""

    def __init__(
        self, rules: GatewayRules, driver: AsyncioDriver, limits: Limits, metrics: GatewayMetrics
    ) -> None:
        self.rules = rules
        self._driver = driver
        self._limits = limits
        self._metrics = metrics
        self._guesses = Guesses()

    def refuse(self, head: Request, connection: ServerConnection) -> ServerResponse | None:
        """Refuse a request before its body arrives: a path that is not served, or a wrong key."""
        try:
            self._known(head, connection)
        except RefusedError as error:
            return self._refused(RequestRecord(head.method, head.path), error)
        return None

    def unreadable(self, status: int, message: str, path: str) -> ServerResponse:
        """Answer a request that is unreadable, or at which the gateway failed."""
        error = RefusedError(status, _CODES.get(status, "unreadable_request"), message)
        return self._refused(RequestRecord("-", path), error)

    async def answer(self, request: Request, connection: ServerConnection) -> None:
        """Answer a request; a cancel means that the client has disconnected, or that the gateway ends."""
        connection.survives = self.rules.settings.on_disconnect == "finish"
        record, call = RequestRecord(request.method, request.path), None
        try:
            client = self._known(request, connection)
            record.key = client.key.name
            if request.path in LOOKUPS:
                is_models = request.path == MODELS
                found = _models(client) if is_models else await self._usage(client.key)
                record.outcome = "ok"
                self._respond(connection, record, found)
                return
            call = self._call(request, client, record)
            comment_after = self.rules.settings.waiting_comment
            if comment_after is None or not call.request.streamed:
                opened = await call.open()
            else:
                opened = await self._opened_with_comments(call, connection, record, comment_after)
            record.history = opened.history
            if opened.stream is None:
                self._respond_ended(call, opened, connection, record)
                return
            record.outcome = await send_stream(
                opened.stream, call, connection, record.request_id, opened.history
            )
            record.status = 200
            self._metrics.ended(record)
        except RefusedError as error:
            self._respond_refused(connection, record, error)
        except asyncio.CancelledError:
            if connection.expired and not connection.left:
                message = "the gateway is shutting down: try again"
                drained = RefusedError(503, "draining", message, retry_after=1.0, final=False)
                self._respond_refused(connection, record, drained)
                return
            record.status, record.outcome = 499, "left"
            self._metrics.ended(record)
            raise
        finally:
            if call is not None:
                call.close()

    def _known(self, request: Request, connection: ServerConnection) -> _Client:
        """Return the client; raise RefusedError for a path that is not served, or a wrong key."""
        known: _Client | None = connection.client
        if known is not None and known.headers is request.headers and known.rules is self.rules:
            return known
        check_route(request)
        sent, key = credentials(request.headers), None
        if known is not None and known.rules is self.rules and credentials(known.headers) == sent:
            key = known.key
        else:
            given = client_key(*sent)
            key = None if given is None else self.rules.keys.get(digest_of(given))
            if key is None:
                raise self._guesses.wrong(connection.address, given)
        known = connection.client = _Client(self.rules, request.headers, key)
        return known

    async def _usage(self, key: ClientKey) -> ServerResponse:
        """Answer with the models that a key may use, and its spending in all processes of a fleet."""
        own = await self._used(LimitHolder("key", key.name, key.settings))
        of_tenant = [await self._used(each) for each in key.holders if each.kind == "tenant"]
        usage = {**own, "of_tenant": of_tenant[0] if of_tenant else None}
        return ServerResponse(200, msgspec.json.encode(usage))

    async def _used(self, holder: LimitHolder) -> dict[str, object]:
        limits, account, spend = holder.limits, self._limits.budgets.account(holder), None
        if account is not None:
            await self._limits.budgets.refresh(account)
            spend = account.snapshot(self._driver.clock())
        return {
            holder.kind: holder.name,
            "rpm": limits.rpm,
            "tpm": limits.tpm,
            "max_in_flight": limits.max_in_flight,
            "spend": spend,
        }

    def _call(self, request: Request, client: _Client, record: RequestRecord) -> GatewayCall:
        if client.head is None:
            client.head = read_head(request, client.key.name)
        asked = read_request(client.head, request.body, record.request_id)
        call = GatewayCall(asked, client.key, client.rules, self._driver, self._limits)
        record.model = call.lead.shown
        return call

    def _respond_ended(
        self, call: GatewayCall, opened: Opened, connection: ServerConnection, record: RequestRecord
    ) -> None:
        assert opened.ended is not None
        response = response_of(
            call.request.head.shape,
            opened.ended,
            opened.history,
            self._driver.clock(),
            limited=bool(call.key.holders),
            secrets=call.secrets,
        )
        record.outcome = str(opened.ended.outcome.verdict)
        if connection.begun:  # with comments
            error = RefusedError(response.status, f"upstream_{record.outcome}", "no answer came")
            self._respond_refused(connection, record, error)
        else:
            self._respond(connection, record, response)

    @staticmethod
    async def _opened_with_comments(
        call: GatewayCall, connection: ServerConnection, record: RequestRecord, seconds: float
    ) -> Opened:
        """Open a stream; send a comment every `seconds` until it has output."""
        opening: asyncio.Future[Opened] = asyncio.ensure_future(call.open())
        try:
            while not (await asyncio.wait({opening}, timeout=seconds))[0]:
                if not connection.begun:
                    connection.begin(200, EVENT_STREAM, our_headers(record.request_id, None))
                connection.send(_COMMENT)
        except asyncio.CancelledError:
            opening.cancel()
            await asyncio.wait({opening})
            if not opening.cancelled() and opening.exception() is None:
                stream = opening.result().stream
                if stream is not None:
                    await stream.aclose()
            raise
        return opening.result()

    def _respond(
        self, connection: ServerConnection, record: RequestRecord, response: ServerResponse
    ) -> None:
        record.status = response.status
        self._metrics.ended(record)  # before a client can look them up
        connection.respond(response, our_headers(record.request_id, record.history))

    def _respond_refused(
        self, connection: ServerConnection, record: RequestRecord, error: RefusedError
    ) -> None:
        """Answer with our own error; a stream that has begun with comments ends with it."""
        if not connection.begun:
            connection.respond(self._refused(record, error))
            return
        shape = shape_of(record.path)
        connection.send(error_event(shape, error.status, error.code, str(error)))
        connection.break_off()
        record.status = 200
        self._metrics.ended(record)

    def _refused(self, record: RequestRecord, error: RefusedError) -> ServerResponse:
        response = refusal(shape_of(record.path), error)
        record.status = error.status
        self._metrics.ended(record)
        return response.with_headers(*our_headers(record.request_id, record.history))


def _models(client: _Client) -> ServerResponse:
    names = client.rules.models(client.key)
    data = [{"id": n, "object": "model", "created": 0, "owned_by": "stormbreak"} for n in names]
    return ServerResponse(200, msgspec.json.encode({"object": "list", "data": data}))
