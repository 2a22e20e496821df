"""The common part of both transports: a request of an HTTP library in, its response or exception out.

An engine is in between. It serves httpx2 and httpx, which differ only in their classes. `AsyncSdkTransport` runs on the
caller's loop, `sync_transport` on the calling thread.
"""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Iterator, Mapping
from functools import partial
from hashlib import blake2b
from math import inf
from typing import Any, ClassVar
from urllib.parse import urlsplit

from stormbreak.config.load import names_targets
from stormbreak.core.engine import Engine
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.spend_policy import COST
from stormbreak.core.tenant import TenantLimits
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.blocking import LateError, in_time
from stormbreak.drivers.blocking_driver import BlockingDriver
from stormbreak.drivers.delivery import Delivery
from stormbreak.drivers.explain import AttemptHistory
from stormbreak.drivers.listeners import Observable
from stormbreak.drivers.scope import Scope
from stormbreak.errors import ConfigurationError
from stormbreak.http.endpoint import same_origin
from stormbreak.http.h1.connection import Connection, RepeatableHeaders, with_repeats
from stormbreak.http.h1.connection_factory import Cert, ConnectionFactory, Verify
from stormbreak.http.local_answers import Degraded, LocalAnswers
from stormbreak.http.policy_in_force import engine_for
from stormbreak.http.request import NO_MODEL, Lookup
from stormbreak.http.routing import OriginConnections, Routes, TargetConfig
from stormbreak.http.sender import BufferedSender, StreamSender, asker_of, cache_answer, make_call
from stormbreak.http.settings import LiveSettings
from stormbreak.http.stream import Stream
from stormbreak.http.transports.httpx_classes import Library
from stormbreak.http.transports.origin_resolver import KeptRoutes, OriginResolver
from stormbreak.http.transports.pass_through import pass_through, redirects_to_other_origin
from stormbreak.http.transports.sdk_request import (
    ModelCall,
    SdkRequest,
    SdkTimeouts,
    read_call,
    scope_from_headers,
)
from stormbreak.http.transports.sdk_response import (
    Failure,
    Reply,
    begun_stream,
    response_for,
    response_headers,
)
from stormbreak.http.transports.wrapped_body import LATE, seconds_to
from stormbreak.http.transports.wrapped_connection import WrappedConnection, check_wrapped
from stormbreak.llm.endpoints import shape_of
from stormbreak.types import Call, CallResult, Outcome, Rejection, Target, Verdict

UNCOUNTED = "its cost cannot be counted: it is not JSON, has no model, or lasts on the server"
"""Why a spend limit rejects a request that would otherwise pass through."""


def _forget(driver: AsyncioDriver | BlockingDriver, targets: Iterable[Target]) -> bool:
    return driver.between_steps(lambda engine, now: engine.forget(targets, now))


def _with_own_cookies(
    headers: RepeatableHeaders, routes: Routes, target: Target, sdk_request: SdkRequest
) -> RepeatableHeaders:
    """Return the headers; drop cookies of another address, since the SDK's client would send them to its own."""
    if "set-cookie" not in headers:
        return headers
    if same_origin(routes.route(target).origin.base_url, sdk_request.place[0]):
        return headers
    return {name: value for name, value in headers.items() if name != "set-cookie"}


class SdkTransport(Observable):
    """A transport: one engine for all hosts, keys and models that are called through it."""

    library: ClassVar[Library]
    sends: ClassVar[str]  # the sending method of a transport of this kind
    blocks: ClassVar[bool]  # it blocks the caller's thread

    def __init__(  # noqa: PLR0913 - keywords are cheap to read
        self,
        policy: Policy | str | Engine | LiveSettings = "interactive",
        *,
        inner: Any = None,
        stream_on_wire: bool = False,
        degraded: Degraded | None = None,
        allow_http: bool = False,
        proxy: str | None = None,
        verify: Verify = True,
        cert: Cert | None = None,
        trust_env: bool = True,
        http2: bool = False,
        fleet: FleetPolicy | str | None = None,
        tenants: Mapping[str, TenantLimits] | None = None,
    ) -> None:
        """Make a transport; any number of clients may share it.

        Args:
            policy: a `Policy`, the name of a preset, the path of a file, or the engine of another transport, to share
            its
                state. Settings, or a file with targets, also lead requests to their targets and pools, by model.
            inner: another transport of the library to send through, instead of our own connections.
            stream_on_wire: request plain chat completions as streams and assemble them (see docs/client.md).
            degraded: makes answers for a `degraded` rule without a text in the policy's fallbacks.
            allow_http: allow a key over plain http to another machine.
            proxy: URL of an HTTP proxy, for every host.
            verify: the certificates to trust: a context, or False for all.
            cert: files of a client certificate, as in the library.
            trust_env: whether to use proxies and certificates from the environment.
            http2: rejected, since our own connections do not support it.
            fleet: the store of a fleet, or a `FleetPolicy`, instead of `policy.fleet` (see docs/fleet.md).
            tenants: the limits of tenants, by name (see docs/scope.md).

        Raises:
            ConfigurationError: names the invalid argument.
        """
        self._connecting = ConnectionFactory(
            inner=inner,
            wrap_inner=self._wrap,
            proxy=proxy,
            verify=verify,
            cert=cert,
            trust_env=trust_env,
            http2=http2,
        )
        self._check_inner(inner)
        connections = OriginConnections(self._connecting.connection_to)
        self.engine, self._settings = self._engine_of(policy, connections, degraded, fleet, tenants)
        self._driver = driver = self._new_driver()
        self.inner, self.trust_env, self._stream_on_wire = inner, trust_env, stream_on_wire
        self._resolver = OriginResolver(
            self.engine.policy.fallback,
            allow_http=allow_http,
            connections=connections,
            forget=partial(_forget, driver),
            led=self._led_connections,
        )
        self._local_answers = LocalAnswers(self.engine.policy, degraded)
        self._recent_failures = RecentFailures(self._driver.clock)

    def _check_inner(self, inner: Any) -> None:
        if isinstance(inner, SdkTransport):
            raise ConfigurationError("inner is already a stormbreak transport")
        if inner is not None:
            check_wrapped(inner, self.library, self.sends)

    def _engine_of(
        self,
        policy: Policy | str | Engine | LiveSettings,
        connections: OriginConnections,
        degraded: Degraded | None,
        fleet: FleetPolicy | str | None,
        tenants: Mapping[str, TenantLimits] | None,
    ) -> tuple[Engine, LiveSettings | None]:
        """Return the engine, and the settings that lead requests to targets; from a file, with our `connections`."""
        if isinstance(policy, LiveSettings) and self._connecting.is_changed:
            raise ConfigurationError(
                "settings have their own connections: give the transport the path of their file"
            )
        if isinstance(policy, str) and names_targets(policy):
            policy = LiveSettings(policy, degraded=degraded, connections=connections)
        if isinstance(policy, Engine | LiveSettings) and tenants is not None:
            raise ConfigurationError(
                "tenants belong to the engine or to the settings: set [tenants.NAME] in the file"
            )
        if isinstance(policy, Engine):
            return policy, None
        if not isinstance(policy, LiveSettings):
            return engine_for(policy, fleet, tenants), None
        if fleet is not None:
            raise ConfigurationError("fleet belongs in the settings: set [fleet] in the file")
        return policy.engine, policy

    def _led_connections(self) -> Iterator[Connection]:
        """Yield the connections of the settings' targets and of their fallbacks."""
        configs: Mapping[str, TargetConfig] = (
            {} if self._settings is None else self._settings.now.configs
        )
        for config in configs.values():
            yield from config.routes.connections()

    def _new_driver(self) -> AsyncioDriver | BlockingDriver:
        return AsyncioDriver(self.engine)

    def _wrap(self, inner: Any) -> Connection:
        return WrappedConnection(self.library, inner)

    async def _run(self, source: ModelCall | Lookup, sdk_request: SdkRequest, request: Any) -> Any:
        """Run a call to its end, or to the first output of a stream; return its response or raise an exception."""
        scope = scope_from_headers(sdk_request.headers)
        known = self._recent_failures.find(sdk_request, request.content)
        if known is not None:
            raise self.library.error(known, request) from known.cause
        led = self._config_led_to(source)
        if led is not None:
            result = await self._call(source, sdk_request, *led, request, scope)
        else:
            with self._resolver.routes(sdk_request.place[0], sdk_request.key) as kept:
                config = self._config_of(kept)
                result = await self._call(source, sdk_request, config, source.model, request, scope)
        if isinstance(result, Failure):
            self._recent_failures.keep(sdk_request, request.content, result)
            raise self.library.error(result, request) from result.cause
        return result

    def _config_of(self, kept: KeptRoutes) -> TargetConfig:
        """Return the config of calls to the SDK's own address; make a new one if the policy has changed."""
        policy, config = self.engine.policy, kept.config
        if config is None or config.policy is not policy:
            answers, reserves = self._local_answers, policy.reserves
            kept.config = config = TargetConfig(policy, kept.routes, answers, reserves=reserves)
        return config

    def _config_led_to(self, source: ModelCall | Lookup) -> tuple[TargetConfig, str] | None:
        """Return the target to which the settings lead a call, and the model there; None: the SDK's address."""
        if self._settings is None or not isinstance(source, ModelCall):
            return None
        route = self._settings.now.route(source.model)
        if route is None:
            return None
        if source.continues and not route.is_single:
            raise ConfigurationError(
                "previous_response_id refers to one provider's memory, and this model may lead to several:"
                " ask for a model of a single target without fallbacks"
            )
        source.is_led = True
        if route.config.stream_on_wire and not source.delivers:
            source.stream_on_wire()
        return route.config, route.model

    async def _call(
        self,
        source: ModelCall | Lookup,
        sdk_request: SdkRequest,
        config: TargetConfig,
        model: str,
        request: Any,
        scope: Scope,
    ) -> Any:
        """Return the final or streaming response of a call, or its failure without a response."""
        call = self._make_call(source, config, model, sdk_request.timeouts, scope)
        driver = self._driver
        sender = self._sender(source, config, sdk_request.timeouts)
        asker = None
        if call.fallbacks and isinstance(source, ModelCall):
            asker = asker_of(config, source)
        opened = await driver.open(call, sender, asker)
        stream = begun_stream(sender, call, opened)
        if stream is not None:
            return self._stream_response(stream, opened, config.routes, sdk_request, request)
        assert isinstance(opened, CallResult), "a delivery has begun a stream"
        history = AttemptHistory(opened.target or call.target, opened)
        if isinstance(source, ModelCall):
            cache_answer(config, source, opened)
        result = response_for(source.shape, history, opened, driver.clock())
        if isinstance(result, Failure):
            return result
        headers = _with_own_cookies(result.headers, config.routes, history.target, sdk_request)
        return self.library.response(result.status, headers, history=history, content=result.body)

    def _make_call(
        self,
        source: ModelCall | Lookup,
        config: TargetConfig,
        model: str,
        timeouts: SdkTimeouts,
        scope: Scope,
    ) -> Call:
        """Make the call. The SDK's timeout bounds a whole plain call, or the time to the first output of a stream."""
        route, steps = config.route_and_steps(model)
        if source.delivers:  # a local answer is not a stream
            steps = tuple(step for step in steps if step.targets)
        now, whole = time.monotonic(), config.policy.deadline or inf
        deadline = min(whole, timeouts.read or inf)
        return make_call(
            self.engine,
            source,
            config,
            route,
            scope=scope,
            steps=steps,
            deadline_at=None if deadline == inf else now + deadline,
            delivers=source.delivers,
            stream_deadline_at=scope.earlier(now + whole) if source.delivers else None,
        )

    def _sender(
        self, source: ModelCall | Lookup, config: TargetConfig, timeouts: SdkTimeouts
    ) -> BufferedSender | StreamSender:
        """Make the sender; after the first output of a stream, the SDK's timeout bounds silence."""
        policy, routes, on_output = config.policy, config.routes, self._driver.first_output
        if not source.delivers:
            return BufferedSender(source, routes, policy, on_output, self.blocks)
        given = [each for each in (timeouts.read, policy.idle_timeout) if each is not None]
        idle = min(given, default=None)
        return StreamSender(source, routes, policy, on_output, self.blocks, idle_timeout=idle)

    def _stream_response(
        self,
        stream: Stream,
        opened: Delivery | CallResult,
        routes: Routes,
        sdk_request: SdkRequest,
        request: Any,
    ) -> Any:
        """Return the response for a stream that has begun, or came whole."""
        result = opened.command if isinstance(opened, Delivery) else opened
        history, head = AttemptHistory(stream.target, result), stream.head
        body = self.library.stream_bodies[self.blocks](stream, history, self.library, request)
        headers = _with_own_cookies(
            response_headers(head, history), routes, history.target, sdk_request
        )
        return self.library.response(head.status, headers, history=history, stream=body)

    def _exceeds_spend_limit(self, sdk_request: SdkRequest) -> bool:
        """Whether a spend limit exists and a model call would only pass through."""
        if not sdk_request.is_model_call or self.policy.spend.acts:
            return sdk_request.is_model_call
        limited = self.engine.tenants.get(scope_from_headers(sdk_request.headers).tenant or "")
        return limited is not None and limited.limits.spend.acts

    def _rejection(self, sdk_request: SdkRequest) -> Any:
        """Return the response to a request whose cost cannot be counted."""
        base_url, endpoint = sdk_request.place
        target = Target(urlsplit(base_url).netloc, NO_MODEL)
        ended = CallResult(
            Outcome(Verdict.REJECTED, rejection=Rejection(COST, UNCOUNTED)), stopped=COST
        )
        history = AttemptHistory(target, ended)
        reply = response_for(shape_of(endpoint), history, ended, self._driver.clock())
        assert isinstance(reply, Reply), "a rejection has a response"
        return self.library.response(
            reply.status, reply.headers, history=history, content=reply.body
        )

    async def _pass(self, sdk_request: SdkRequest, body: AsyncIterable[bytes], request: Any) -> Any:
        """Send once, over our own connections and past the engine: the request may not be safe to repeat."""
        until = scope_from_headers(sdk_request.headers).deadline_at
        origin = self._resolver.origin(sdk_request.place[0], sdk_request.key)
        connection = self._resolver.connection(origin)
        result = await pass_through(
            connection.blocking if self.blocks else connection, sdk_request, body, until=until
        )
        if isinstance(result, Failure):
            raise self.library.error(result, request) from result.cause
        head, stream = result
        body_class = self.library.pass_through_bodies[self.blocks]
        response_body = body_class(stream, self.library, request, until)
        headers = with_repeats(head.headers, head.repeated)
        return self.library.response(head.status, headers, stream=response_body)

    async def _pass_inside(
        self, sdk_request: SdkRequest, request: Any, send: Callable[[Any], Coroutine[Any, Any, Any]]
    ) -> Any:
        """Send once, through the inner transport and past the engine."""
        until = scope_from_headers(sdk_request.headers).deadline_at
        # Raises if the key would travel in the clear.
        self._resolver.origin(sdk_request.place[0], sdk_request.key)
        ready, left = self.library.without_our_headers(request), seconds_to(until)
        if left is not None:
            ready = self.library.with_timeout(ready, left)
        try:
            response = await in_time(send(ready), until)
        except LateError:
            raise self._late(request) from None
        if redirects_to_other_origin(response.headers, sdk_request.url):
            del response.headers["location"]
        return self.library.wrap_response(response, until, partial(self._late, request))

    def _late(self, request: Any) -> Exception:
        return self.library.error(LATE, request)

    @property
    def policy(self) -> Policy:
        """The policy of requests to the SDK's own address, as of the last reload, but with its first fallbacks."""
        return self.engine.policy

    async def _close(self) -> None:
        """Close the connections of the running loop."""
        await self._local_answers.close()
        if self._settings is not None:
            for config in self._settings.now.configs.values():
                await config.local_answers.close()
        for each in {*self._resolver.connections(), *self._connecting.connections()}:
            await (each.blocking if self.blocks else each).close()


class AsyncSdkTransport(SdkTransport):
    """An asynchronous transport; its arguments are those of `SdkTransport`. `inner` is asynchronous, too."""

    sends = "handle_async_request"
    blocks = False

    async def handle_async_request(self, request: Any) -> Any:
        """Answer a request of the library with the library's response, or raise its exception.

        Raises:
            ConfigurationError: the key would travel in the clear to another machine, a fallback has none, or a header
                of ours is invalid.
        """
        sdk_request = self.library.read(request)
        source = None
        if sdk_request.is_model_call or sdk_request.is_lookup:
            body = await request.aread()
            source = read_call(sdk_request, body, stream_on_wire=self._stream_on_wire)
        if source is not None:
            return await self._run(source, sdk_request, request)
        if self._exceeds_spend_limit(sdk_request):
            return self._rejection(sdk_request)
        if self.inner is not None:
            return await self._pass_inside(sdk_request, request, self.inner.handle_async_request)
        return await self._pass(sdk_request, request.stream, request)

    async def aclose(self) -> None:
        """Close the connections of the running loop. Its streams end, and count neither as success nor as failure."""
        assert isinstance(self._driver, AsyncioDriver)
        self._driver.end_streams(asyncio.get_running_loop())
        self._driver.rest()
        await self._close()


# ---------------------------------------------------------------- recent failures
# An exception has no header that forbids a retry. So if an SDK retries a failed call within a minute, the same failure
# is raised at once. Only a digest of a request is kept.

KEPT = 60.0  # seconds; the SDKs come back within 8
_MAX_KEPT = 1024
_SALT = secrets.token_bytes(16)


class RecentFailures:
    """The recent failures by request. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, Failure]] = OrderedDict()

    def keep(self, request: SdkRequest, body: bytes, failure: Failure) -> None:
        self._kept[_digest(request, body)] = self._clock(), failure
        while len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)

    def find(self, request: SdkRequest, body: bytes) -> Failure | None:
        """Return the failure of the call that an SDK retries; None for a new call."""
        if not request.sdk_retry_count:
            return None
        known = self._kept.get(_digest(request, body))
        return known[1] if known is not None and self._clock() - known[0] < KEPT else None


def _digest(request: SdkRequest, body: bytes) -> bytes:
    digest = blake2b(key=_SALT, digest_size=16)
    for part in (request.method, request.url, request.key or ""):
        digest.update(part.encode() + b"\0")
    digest.update(body)
    return digest.digest()
