"""What all doors share: requests of an HTTP library in, its responses or exceptions out, an engine in between.

It serves httpx2 and httpx alike, which differ in their classes only. Who waits for the coroutines here, and on which
loop, is up to the doors (`transport`, `sync_transport`).
"""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from functools import partial
from typing import Any, ClassVar
from urllib.parse import urlsplit

from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.core.spending import COST
from stormbreak.core.target_state import Listener
from stormbreak.drivers.asyncio_driver import Asker, AsyncioDriver
from stormbreak.drivers.delivery import LoopDelivery
from stormbreak.drivers.explain import AttemptHistory
from stormbreak.drivers.listeners import Attached, subscribe
from stormbreak.drivers.scope import Scope
from stormbreak.errors import ConfigurationError
from stormbreak.http.h1.connection import POOL_LIMIT, with_repeats
from stormbreak.http.local_answers import Degraded, LocalAnswers
from stormbreak.http.pricing import engine_for
from stormbreak.http.routes import Routes
from stormbreak.http.stream import Stream
from stormbreak.http.stream_source import Source
from stormbreak.http.transports.connection_factory import Cert, ConnectionFactory, Verify
from stormbreak.http.transports.header_options import scope_from_headers
from stormbreak.http.transports.library import Library, PassThroughBody, StreamBody
from stormbreak.http.transports.origin_resolver import OriginResolver
from stormbreak.http.transports.pass_through import passed, redirects_to_other_origin
from stormbreak.http.transports.recent_failures import RecentFailures
from stormbreak.http.transports.sdk_call_kinds import Ask, Look, asked_in
from stormbreak.http.transports.sdk_calls import make_call, make_sender
from stormbreak.http.transports.sdk_request import NO_MODEL, SdkRequest
from stormbreak.http.transports.sdk_response import (
    Failure,
    Reply,
    headers_of,
    is_filtered,
    response_for,
)
from stormbreak.http.transports.wrapped_body import LATE, seconds_to
from stormbreak.http.transports.wrapped_connection import WrappedConnection, check_wrapped
from stormbreak.llm.models import endpoint_of
from stormbreak.types import CallResult, Outcome, Rejection, Target, Verdict

UNCOUNTED = "what it costs cannot be counted: it is no JSON, names no model, or lasts on the server"
"""Of a request that would pass, why a limit of spending refuses it."""


class Door:
    """A transport: one engine for all the hosts, keys and models that are asked through it."""

    library: ClassVar[Library]
    sends: ClassVar[str]  # the method by which a transport of its kind sends
    stream_body: ClassVar[Callable[..., StreamBody]]
    pass_through_body: ClassVar[Callable[..., PassThroughBody]]

    def __init__(  # noqa: PLR0913 - keywords are cheap to read
        self,
        policy: Policy | str | Engine = "interactive",
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
    ) -> None:
        """Make one; it may be shared by any number of clients.

        Args:
            policy: a `Policy`, the name of a preset, or the engine of another door, to share all it knows.
            inner: another transport of the library to send through, instead of our own pools.
            stream_on_wire: have plain chat completions sent as streams and assemble them (see docs/client.md).
            degraded: makes answers for a `degraded` rule of the policy's fallbacks that has no text.
            allow_http: allow a key over plain http to another machine.
            proxy: URL of an http or https proxy, for every host.
            verify: whom to trust: a context, or False for whoever answers.
            cert: files of a client certificate, as the library takes them.
            trust_env: whether proxies and certificates in the environment count.
            http2: refused, since our own pools do not speak it.

        Raises:
            ConfigurationError: names the argument that cannot be right.
        """
        self.engine = policy if isinstance(policy, Engine) else engine_for(policy)
        self.policy = self.engine.policy
        self._driver = driver = AsyncioDriver(self.engine)
        self._stream_on_wire = stream_on_wire
        self._connecting = ConnectionFactory(
            inner=inner,
            inner_wire=lambda inner: WrappedConnection(self.library, self._as_async(inner)),
            limit=min(self.policy.limit.max_in_flight, POOL_LIMIT),
            proxy=proxy,
            verify=verify,
            cert=cert,
            trust_env=trust_env,
            http2=http2,
        )
        self._places = OriginResolver(
            self.policy.fallback,
            allow_http=allow_http,
            connect=self._connecting.connection_to,
            forget=lambda targets: driver.by_hand(lambda engine, now: engine.forget(targets, now)),
        )
        if isinstance(inner, Door):
            raise ConfigurationError("inner is a transport of stormbreak's already")
        if inner is not None:
            check_wrapped(inner, self.library, self.sends)
        self._local_answers = LocalAnswers(self.policy, degraded)
        self._given_up = RecentFailures(self._driver.clock)

    def _as_async(self, inner: Any) -> Any:
        """The inner transport, as one that is asynchronous."""
        return inner

    def _asked(self, seen: SdkRequest, body: bytes) -> Ask | Look | None:
        """What is asked for, where the engine should hear of it."""
        return asked_in(seen, seen.place[1], body, on_wire=self._stream_on_wire)

    async def _answered(self, asked: Ask | Look, seen: SdkRequest, request: Any) -> Any:
        """Carry a call to its end, or to the first output of a stream: its response, or an exception.

        Raises:
            ConfigurationError: the key would travel in the clear to another machine, a fallback has none, or a header
                of ours cannot be right.
        """
        here = scope_from_headers(seen.headers)
        known = self._given_up.find(seen, request.content)
        if known is not None:
            raise self.library.error(known, request) from known.cause
        with self._places.routes(seen.place[0], seen.key) as routes:
            told = await self._answer(asked, seen, routes, request, here)
        if isinstance(told, Failure):
            self._given_up.keep(seen, request.content, told)
            raise self.library.error(told, request) from told.cause
        return told

    async def _answer(
        self, asked: Ask | Look, seen: SdkRequest, routes: Routes, request: Any, here: Scope
    ) -> Any:
        """The response that a call ends with or begins to give; or how it failed without one."""
        target = routes.target(asked.model)
        if self.policy.spend.acts:
            asked.bind(self.policy.spend.max_output_tokens, target.provider)
        asked.to(routes.route(target))  # its own target is the first
        call = make_call(
            self.engine,
            asked,
            target,
            spans=seen.spans,
            steps=routes.steps(asked.model),
            here=here,
        )
        driver = self._driver
        sender = make_sender(asked, routes, seen.spans, self.policy, driver.first)
        opened = await driver.open(call, sender, self._asker(asked, seen))
        source = sender.source
        if isinstance(opened, LoopDelivery):
            assert source is not None
            story = AttemptHistory(sender.target or target, opened.command)
            return self._begun(source, story, opened, request)
        story = AttemptHistory(opened.target or target, opened)
        if source is not None and is_filtered(opened.outcome):
            opened = opened._replace(outcome=opened.outcome._replace(verdict=Verdict.OK))
        if source is not None and opened.outcome.verdict is Verdict.OK:  # it came whole
            return self._begun(source, story, opened, request)
        self._keep(asked, seen, opened)
        told = response_for(asked.shape, story, opened, driver.clock())
        if isinstance(told, Failure):
            return told
        return self.library.response(told.status, told.headers, story=story, content=told.body)

    def _begun(
        self, source: Source, story: AttemptHistory, opened: LoopDelivery | CallResult, request: Any
    ) -> Any:
        """The response to a stream that has begun, or came whole."""
        stream = Stream(story.target, source, opened)
        body = self.stream_body(stream, story, self.library, request)
        headers = headers_of(source.head, story)
        return self.library.response(source.head.status, headers, story=story, stream=body)

    def _is_beyond_limits(self, seen: SdkRequest) -> bool:
        """Whether it asks a model, but would only pass, while there is a limit of spending."""
        return seen.is_model_call and self.policy.spend.acts

    def _refused(self, seen: SdkRequest) -> Any:
        """The response to a request of which no limit of spending would hear."""
        base_url, endpoint = seen.place
        target = Target(urlsplit(base_url).netloc, NO_MODEL)
        ended = CallResult(
            Outcome(Verdict.REJECTED, rejection=Rejection(COST, UNCOUNTED)), stopped=COST
        )
        story = AttemptHistory(target, ended)
        told = response_for(endpoint_of(endpoint), story, ended, self._driver.clock())
        assert isinstance(told, Reply), "a rejection is answered"
        return self.library.response(told.status, told.headers, story=story, content=told.body)

    async def _pass(self, seen: SdkRequest, sent: AsyncIterable[bytes], request: Any) -> Any:
        """Send once, over our own pools, what is not known to be safe to repeat; the engine does not hear of it."""
        until = scope_from_headers(seen.headers).deadline_at
        origin = self._places.origin(seen.place[0], seen.key)
        got = await passed(self._places.wire(origin), seen, sent, until=until)
        if isinstance(got, Failure):
            raise self.library.error(got, request) from got.cause
        head, incoming = got
        body = self.pass_through_body(incoming, self.library, request, until)
        headers = with_repeats(head.headers, head.repeated)
        return self.library.response(head.status, headers, stream=body)

    async def _pass_inside(
        self, seen: SdkRequest, request: Any, send: Callable[[Any], Awaitable[Any]]
    ) -> Any:
        """Send once, through the inner transport, what the engine does not hear of."""
        ready, until = self._ready_to_pass(seen, request)
        try:
            async with asyncio.timeout(seconds_to(until)) as bound:
                response = await send(ready)
        except TimeoutError:
            if not bound.expired():  # one of the body's own
                raise
            raise self._late(request) from None
        if redirects_to_other_origin(response.headers, seen.url):
            del response.headers["location"]
        return self.library.over_inner(response, until, partial(self._late, request))

    def _ready_to_pass(self, seen: SdkRequest, request: Any) -> tuple[Any, float | None]:
        """The request as it passes through the inner transport, to be sent once; and until when.

        Raises:
            ConfigurationError: the key would travel in the clear to another machine, or a header of ours cannot be right.
        """
        until = scope_from_headers(seen.headers).deadline_at
        self._places.origin(seen.place[0], seen.key)
        ready = self.library.without_our_headers(request)
        if until is None:
            return ready, until
        left = seconds_to(until)
        if not left:
            raise self._late(request)
        return self.library.within(ready, left), until

    def _late(self, request: Any) -> Exception:
        return self.library.error(LATE, request)

    def _asker(self, asked: Ask | Look, seen: SdkRequest) -> Asker | None:
        if not self.policy.fallback or not isinstance(asked, Ask):
            return None
        wanted = asked.request(seen.place[0], seen.key)
        return lambda ask: self._local_answers.find(ask, wanted)

    def _keep(self, asked: Ask | Look, seen: SdkRequest, ended: CallResult) -> None:
        if self._local_answers.keeps and isinstance(asked, Ask):
            self._local_answers.keep(asked.request(seen.place[0], seen.key), ended)

    @property
    def inner(self) -> Any:
        """The transport that it sends through; None: our own pools."""
        return self._connecting.inner

    @property
    def trust_env(self) -> bool:
        """Whether proxies and certificates in the environment count."""
        return self._connecting.trust_env

    def subscribe(self, listener: Listener) -> Attached:
        """Have `listener` called with every event, until what is returned is detached.

        It may not make calls through this transport.
        """
        return subscribe(self.engine, listener)

    def snapshot(self) -> dict[str, Any]:
        """What stands where: every target's circuit, queue, limit and cooldown, and the retry budget."""
        return self._driver.snapshot()

    async def _close(self) -> None:
        """Close the connections of the running loop."""
        await self._local_answers.close()
        for wire in {*self._places.wires(), *self._connecting.wires()}:
            await wire.close()
