"""The asynchronous client: one engine, an origin, any number of models, and wherever its policy falls back to.

`request` and `chat` answer with an `Answer` or raise; `ask` answers with how the call ended, as a value,
for those (such as the batch runner) who want every outcome.
"""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from stormbreak.core.engine import Engine
from stormbreak.core.explain import add_attempt_notes
from stormbreak.core.policy import Policy
from stormbreak.core.spend_policy import PriceOf
from stormbreak.drivers.asyncio_driver import Asker
from stormbreak.drivers.scope import checked_priority, current
from stormbreak.errors import error_for
from stormbreak.http.client_controls import ClientControls
from stormbreak.http.endpoint import DynamicKey, KeyFunction
from stormbreak.http.environment import find_endpoint, in_force
from stormbreak.http.exchange import answer_of
from stormbreak.http.h1.connect import connect
from stormbreak.http.local_answers import Degraded, LocalAnswers
from stormbreak.http.pricing import check_prices, list_price
from stormbreak.http.request_body import RequestFields, encoded
from stormbreak.http.request_source import BufferedSender, StreamSender
from stormbreak.http.request_template import Asking
from stormbreak.http.routes import Routes
from stormbreak.http.stream import PendingStream, Stream
from stormbreak.http.stream_source import LocalSource
from stormbreak.http.target_config import SingleTarget, TargetConfig, TargetResolver, model_of
from stormbreak.llm.models import OPERATIONS
from stormbreak.types import (
    CACHE,
    DEGRADED,
    FALLBACK,
    TARGET,
    Answer,
    Call,
    CallResult,
    Priority,
    Verdict,
)


class AsyncClient(ClientControls):
    """Calls an OpenAI-compatible API, or Anthropic's, through an engine.

    Args:
        provider: name of a preset, such as "openai" or "anthropic" (docs/client.md names them all).
        base_url: where to send instead, up to and including "/v1".
        api_key: the key, or a function (a coroutine function, too) that is asked for it before each attempt; by default
            it comes from the environment (see docs/client.md).
        api_key_env: name of the environment variable that holds the key.
        model: the model of payloads that name none.
        policy: a `Policy` or the name of a preset.
        allow_http: allow a key over plain http to another machine.
        stream_on_wire: have plain chat completions sent as streams and assemble them, so that the policy sees when
            each answer begins (see docs/client.md).
        degraded: makes answers for a `degraded` rule of the policy's fallbacks that has no text (see docs/fallbacks.md).
        prices: says what a model costs, by provider and name, for `Answer.cost` and for a limit of spending
            (`policy.spend`); by default today's list prices.
    """

    def __init__(  # noqa: PLR0913 - keywords are cheap to read
        self,
        provider: str | None = None,
        *,
        base_url: str | None = None,
        api_key: str | KeyFunction | None = None,
        api_key_env: str | None = None,
        model: str | None = None,
        policy: Policy | str = "interactive",
        allow_http: bool = False,
        stream_on_wire: bool = False,
        degraded: Degraded | None = None,
        prices: PriceOf | None = None,
    ) -> None:
        policy = in_force(policy)
        if prices is None:
            check_prices(policy)
        endpoint = find_endpoint(
            provider,
            base_url=base_url,
            api_key=DynamicKey(api_key) if callable(api_key) else api_key,
            api_key_env=api_key_env,
            allow_http=allow_http,
        )
        routes = Routes(
            endpoint,
            policy.fallback,
            allow_http=allow_http,
            environ=os.environ,
            connect=partial(connect, policy.limit.max_in_flight),
        )
        at_hand = LocalAnswers(policy, degraded)
        footing = TargetConfig(policy, routes, at_hand, model, stream_on_wire, policy.weighs)
        self._stand(Engine(policy, prices or list_price), SingleTarget(footing))

    @classmethod
    def on(cls, engine: Engine, ground: TargetResolver) -> Self:
        """Make a client of an engine that is there already, and may be shared."""
        client = cls.__new__(cls)
        client._stand(engine, ground)  # noqa: SLF001 - of this very class
        return client

    @property
    def _routes(self) -> Routes:
        return self._ground.first.routes

    @property
    def _price_of(self) -> PriceOf | None:
        return self.engine.payers.price_of

    @property
    def base_url(self) -> str:
        """Where calls go."""
        return self._ground.first.base_url

    async def request(
        self,
        endpoint: str,
        payload: Mapping[str, Any],
        *,
        priority: Priority | None = None,
        deadline: float | None = None,
        tenant: str = "",
    ) -> Answer:
        """Send `payload` to `endpoint`, such as "chat/completions"; `deadline` is seconds from now.

        Where calls wait, those of each `tenant` get their fair share.

        Raises:
            RejectedError: nothing was sent; says which policy refused and when to come back.
            UpstreamError: the last attempt failed; its subclass says how.
            ClientClosedError: this client was closed, before or meanwhile.
            ConfigurationError: the payload names no model, or is no JSON; or the priority is none.
        """
        model, body = self._encoded(payload)
        ended = await self.ask(endpoint, body, priority=priority, deadline=deadline, tenant=tenant)
        target = ended.target or self.target(model)
        outcome = ended.outcome
        if outcome.verdict is not Verdict.OK:
            raise add_attempt_notes(error_for(target, ended)) from outcome.error
        return answer_of(target, ended, self._price_of)

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        priority: Priority | None = None,
        deadline: float | None = None,
        tenant: str = "",
        **options: Any,
    ) -> Answer:
        """Ask for a chat completion, as `request` does; `options` go into the payload (temperature, max_tokens, ...).

        Each of the `messages` has a "role" and a "content".
        """
        payload = {"model": model, "messages": list(messages), **options}
        return await self.request(
            "chat/completions", payload, priority=priority, deadline=deadline, tenant=tenant
        )

    def stream(
        self,
        endpoint: str,
        payload: Mapping[str, Any],
        *,
        priority: Priority | None = None,
        deadline: float | None = None,
        tenant: str = "",
    ) -> PendingStream:
        """Send `payload` as `request` does, and hand over the answer while it comes: see `http.stream.Stream`.

        Use it as ``async with client.stream(...) as stream``, or await it. That waits for the first output; until
        then attempts are repeated as ever. `deadline` bounds the whole stream, the policy's attempt timeout the
        time to its first output, its idle timeout silence.

        Raises:
            RejectedError: nothing was sent; says which policy refused and when to come back.
            UpstreamError: the last attempt failed before its first output; its subclass says how.
            ClientClosedError: this client was closed, before or meanwhile.
            ConfigurationError: the payload names no model, or is no JSON; or the priority is none.
        """
        return PendingStream(self._open(endpoint, payload, priority, deadline, tenant))

    async def _open(
        self,
        endpoint: str,
        payload: Mapping[str, Any],
        priority: Priority | None,
        deadline: float | None,
        tenant: str,
    ) -> Stream:
        _, body = self._encoded(payload)
        footing = self._ground.footing(body)
        asking = Asking(endpoint, body, delivers=True)
        call = self._call(footing, asking, priority, tenant, deadline, delivers=True)
        sender = StreamSender(asking, footing.routes, self.engine.policy)
        opened = await self._driver.open(call, sender, _asker(footing, call, asking))
        target, source = sender.target or call.target, sender.source
        if isinstance(opened, CallResult):
            target = opened.target or target
            if opened.outcome.verdict is not Verdict.OK:
                raise add_attempt_notes(error_for(target, opened)) from opened.outcome.error
            if opened.source in (CACHE, DEGRADED):
                at_hand = LocalSource(opened.outcome)
                return Stream(target, at_hand, opened, opened.source, price_of=self._price_of)
            came_from = opened.source
        else:
            came_from = TARGET if target == call.target else FALLBACK
        assert source is not None
        return Stream(target, source, opened, came_from, price_of=self._price_of, client=self)

    async def ask(  # noqa: PLR0913 - keywords are cheap to read
        self,
        endpoint: str,
        body: bytes,
        *,
        priority: Priority | None = None,
        deadline: float | None = None,
        tenant: str = "",
        queue_is_free: bool = False,
        attempts: int | None = None,
        idempotency_key: str | None = None,
        fields: RequestFields | None = None,
    ) -> CallResult:
        """Send a JSON object given as bytes, a model in it, and tell how it ended.

        `attempts` are the most that are made, where the policy allows more. With `queue_is_free` the seconds to the
        deadline count from when the first attempt leaves.

        The outcome's value is the last `Received`, where anything was. A streamed answer is assembled.
        Every attempt at one target carries the same key, at the first the `idempotency_key`, by default one of this call's own.
        A caller that has parsed the body passes its `fields`.

        Raises:
            ConfigurationError: the body is no JSON object, or names no model; or the priority is none.
        """
        footing = self._ground.footing(body)
        asking = Asking(
            endpoint, body, on_wire=footing.stream_on_wire, key=idempotency_key, fields=fields
        )
        call = self._call(
            footing, asking, priority, tenant, deadline, queue_is_free=queue_is_free, most=attempts
        )

        sender = BufferedSender(asking, footing.routes, self.engine.policy, self._driver.first)
        ended = await self._driver.run(call, sender, _asker(footing, call, asking))
        if footing.at_hand.keeps:
            footing.at_hand.keep(asking.request(footing.base_url, footing.api_key), ended)
        return ended

    def _encoded(self, payload: Mapping[str, Any]) -> tuple[str, bytes]:
        model = model_of(payload.get("model"), self._ground.first)
        return model, encoded({**payload, "model": model})

    def _call(
        self,
        footing: TargetConfig,
        asking: Asking,
        priority: Priority | None,
        tenant: str,
        deadline: float | None,
        *,
        queue_is_free: bool = False,
        most: int | None = None,
        delivers: bool = False,
    ) -> Call:
        policy, model = footing.policy, asking.wanted.model
        target = footing.target(model)
        if policy.spend.acts:
            asking.bind(policy.spend.max_output_tokens, target.provider)
        asking.to(footing.routes.route(target))  # what cannot be sent is told before it waits
        span = policy.deadline if deadline is None else deadline
        own = None if span is None or queue_is_free else time.monotonic() + span
        bound = asking.bound() if footing.weighs or self.engine.listeners else None
        here = current()
        wanted = here.priority if priority is None else checked_priority(priority)
        return Call(
            self.engine.number(),
            target,
            here.earlier(own),
            policy.patience,
            policy.priority if wanted is None else wanted,
            policy.fail_fast,
            span if queue_is_free else None,
            here.most if most is None else most,
            tenant or here.tenant or "",
            asking.begins,
            asking.tokens() if footing.weighs else 0,
            delivers,
            footing.steps(model),
            labels=here.labels,
            operation=OPERATIONS.get(asking.shape, ""),
            bound=bound,
            unbounded=asking.unbounded() if footing.weighs and bound is None else "",
        )

    async def close(self) -> None:
        """End every call of this client on the running loop, now or later, and close its connections there.

        A second time does nothing. On other loops it goes on.
        """
        self.stop(asyncio.get_running_loop())
        for each in self._ground.owned():
            await each.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()


def _asker(footing: TargetConfig, call: Call, asking: Asking) -> Asker | None:
    """Who finds the answers at hand, where a fallback may ask for one."""
    if not call.fallbacks:
        return None
    request = asking.request(footing.base_url, footing.api_key)
    return lambda ask: footing.at_hand.find(ask, request)
