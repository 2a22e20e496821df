"""The asynchronous client: one engine, an origin, any number of models, and the fallbacks of its policy.

`request` and `chat` return an `Answer` or raise. `ask`, for the batch runner, returns the result of the call as a
value.
"""

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple, Self

from stormbreak.core.circuit_snapshot import parse_snapshots, span_in
from stormbreak.core.concurrency_limit import Limit
from stormbreak.core.engine import Engine
from stormbreak.core.explain import add_attempt_notes
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.tenant import TenantLimits
from stormbreak.cost.price_source import PriceOf
from stormbreak.cost.spend_gate import allow_spending, spend_accounts
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.blocking_driver import BlockingDriver
from stormbreak.drivers.listeners import Observable
from stormbreak.drivers.scope import checked_priority, current
from stormbreak.errors import ConfigurationError, error_for
from stormbreak.http.answer_schema import REPAIRS, AnswerSchema, Repairs, Schema, schema_of
from stormbreak.http.endpoint import DynamicKey, KeyFunction, find_endpoint
from stormbreak.http.h1.connection import POOL_LIMIT
from stormbreak.http.h1.connection_factory import connect
from stormbreak.http.local_answers import Degraded, LocalAnswers
from stormbreak.http.policy_in_force import engine_for
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.http.request import (
    NO_MODEL,
    RequestFields,
    RequestTemplate,
    encode_payload,
    fields_of,
    set_stream,
)
from stormbreak.http.resource import Resource, ResourceSender
from stormbreak.http.response import WholeAnswer, answer_of, outcome_of
from stormbreak.http.routing import Routes, SingleTarget, TargetConfig, TargetResolver
from stormbreak.http.sender import (
    BufferedSender,
    StreamSender,
    asker_of,
    cache_answer,
    limit_output,
    make_call,
)
from stormbreak.http.stream import PendingStream, Stream
from stormbreak.http.stream_source import LocalSource
from stormbreak.llm.endpoints import shape_of
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.types import (
    CACHE,
    DEGRADED,
    FALLBACK,
    TARGET,
    Answer,
    Call,
    CallResult,
    Outcome,
    Priority,
    Target,
    Verdict,
)


class _CallOptions(NamedTuple):
    """The options of a call, besides its payload."""

    priority: Priority | None
    deadline: float | None
    tenant: str
    queue_is_free: bool = False
    attempts: int | None = None


class ClientControls(Observable):
    """The common part of both clients: observe the engine, control its circuits, shut down. Thread-safe."""

    _resolver: TargetResolver
    _driver: AsyncioDriver | BlockingDriver

    @property
    def policy(self) -> Policy:
        """The policy of its calls; of a pool, that of its first target."""
        return self._resolver.first.policy

    @property
    def base_url(self) -> str:
        """The base URL of calls."""
        return self._resolver.first.origin.base_url

    def target(self, model: str) -> Target:
        """Return the first target of calls for `model`; of a pool, that of its first member."""
        return self._resolver.first.target(model)

    def isolate(self, target: Target | str, *, duration: float | None = None) -> None:
        """Open the circuit of a target, or of a model, manually: no call passes.

        Until `reset`, or for `duration` seconds, after which probes decide. Calls in the queue that fail fast are
        rejected at once.

        Raises:
            ConfigurationError: the policy has no circuit breaker, or `duration` is not a valid duration.
        """
        if self.policy.breaker is None:
            raise ConfigurationError("the policy has no breaker: no circuit can be isolated")
        where = self._target_of(target)
        self._driver.between_steps(
            lambda engine, now: engine.isolate(where, now, duration=duration)
        )

    def reset(self, target: Target | str) -> None:
        """Close the circuit of a target, or of a model, and end its cooldown; waiting calls start."""
        where = self._target_of(target)
        self._driver.between_steps(lambda engine, now: engine.reset(where, now))

    def save_circuits(self) -> dict[str, Any]:
        """Return the circuits that are not closed, by model, as plain values for `restore_circuits` in another process.

        Circuits of fallback targets are left out.
        """
        saved = self._driver.between_steps(lambda engine, now: engine.save_circuits(now))
        circuits = {
            target.model: circuit.as_dict()
            for target, circuit in saved.items()
            if target == self.target(target.model)
        }
        return {"circuits": circuits, "saved_at": time.time()}

    def restore_circuits(self, values: Mapping[str, Any]) -> None:
        """Restore the result of `save_circuits`; the time since then counts, by the wall clock.

        Without a breaker in the policy, nothing is restored.

        Raises:
            ConfigurationError: names the wrong value; nothing has changed.
        """
        circuits = parse_snapshots(values)
        elapsed = max(0.0, time.time() - span_in(values, "saved_at"))
        saved = {self.target(model): circuit for model, circuit in circuits.items()}
        self._driver.between_steps(lambda engine, now: engine.restore_circuits(saved, now, elapsed))

    def pause(self, target: Target | str, seconds: float) -> None:
        """Send nothing to a target, or a model, for `seconds`, as it asked an earlier process."""
        where = self._target_of(target)
        self._driver.between_steps(lambda engine, now: engine.pause(where, seconds, now))

    def change_limit(self, limit: Limit) -> None:
        """Replace the concurrency limit."""
        self._driver.between_steps(lambda engine, now: engine.change_limit(limit, now))

    def may_spend(self, usd: Decimal) -> None:
        """Allow total spending of at most `usd` US dollars for now, within the spend limit of the policy."""
        policy = self.policy
        self._driver.between_steps(lambda engine, now: allow_spending(engine, policy, usd, now))

    def is_straggler(self, target: Target, sent_at: float, *, alone: bool) -> bool:
        """Whether an attempt that takes far too long is lost; see `TargetState.is_straggler`."""
        return self._driver.between_steps(
            lambda engine, now: engine.target_state(target).is_straggler(now, sent_at, alone=alone)
        )

    def _target_of(self, target: Target | str) -> Target:
        return self.target(target) if isinstance(target, str) else target

    def drain(self) -> None:
        """Let calls in flight finish; end every waiting call, now or later, as CANCELLED."""
        self._driver.drain()

    def stop(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """End every call of this client on `loop`, or everywhere, now or later, with a `ClientClosedError`.

        A stream ends with a `StreamBrokenError`. Idle connections stay open.
        """
        if isinstance(self._driver, BlockingDriver):
            self._driver.close()
        else:
            self._driver.close(loop)


class AsyncClient(ClientControls):
    """Calls an OpenAI-compatible API, or Anthropic's, through an engine.

    Args:
        provider: name of a preset, such as "openai" or "anthropic" (docs/client.md lists all).
        base_url: another address to send to, up to and including "/v1".
        api_key: the key, or a function or coroutine function that returns it before each attempt; by default it comes
            from the environment (see docs/client.md).
        api_key_env: name of the environment variable that holds the key.
        model: the model of payloads without one.
        policy: a `Policy`, the name of a preset or the path of a file.
        allow_http: allow a key over plain http to another machine.
        stream_on_wire: request plain chat completions as streams and assemble them, so that the policy sees when each
            answer begins (see docs/client.md).
        degraded: makes answers for a `degraded` rule without a text in the policy's fallbacks (see docs/fallbacks.md).
        prices: returns the price of a model, by provider and name, for `Answer.cost` and for a spend limit
            (`policy.spend`); by default today's list prices.
        fleet: the store of a fleet, or a `FleetPolicy`, instead of `policy.fleet` (see docs/fleet.md).
        tenants: the limits of tenants, by name (see docs/scope.md).
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
        fleet: FleetPolicy | str | None = None,
        tenants: Mapping[str, TenantLimits] | None = None,
    ) -> None:
        engine = engine_for(policy, fleet, tenants, prices)
        policy = engine.policy
        endpoint = find_endpoint(
            provider,
            base_url=base_url,
            api_key=DynamicKey(api_key) if callable(api_key) else api_key,
            api_key_env=api_key_env,
            allow_http=allow_http,
        )
        # the limit may be raised
        routes = Routes(endpoint, policy.fallback, connect=partial(connect, POOL_LIMIT))
        local_answers = LocalAnswers(policy, degraded)
        config = TargetConfig(policy, routes, local_answers, model, stream_on_wire, policy.reserves)
        self._use(engine, SingleTarget(config))

    @classmethod
    def on(cls, engine: Engine, resolver: TargetResolver, *, blocks: bool = False) -> Self:
        """Make a client of an existing, perhaps shared engine; `drivers.blocking` runs a client that `blocks`."""
        client = cls.__new__(cls)
        client._use(engine, resolver, blocks=blocks)  # noqa: SLF001 - of this very class
        return client

    def for_blocking(self) -> Self:
        """Make a blocking client with the same engine and targets."""
        return self if self.blocks else self.on(self.engine, self._resolver, blocks=True)

    def _use(self, engine: Engine, resolver: TargetResolver, *, blocks: bool = False) -> None:
        self.engine = engine
        self._resolver = resolver
        self.blocks = blocks
        self._driver = BlockingDriver(engine) if blocks else AsyncioDriver(engine)
        self._price_of = spend_accounts(engine).price_of

    async def request(
        self,
        endpoint: str,
        payload: Mapping[str, Any],
        *,
        priority: Priority | None = None,
        deadline: float | None = None,
        tenant: str = "",
        idempotency_key: str | None = None,
        schema: Schema | None = None,
        repairs: int = REPAIRS,
    ) -> Answer:
        """Send `payload` to `endpoint`, such as "chat/completions"; `deadline` is seconds from now.

        If calls wait, each `tenant` gets a fair share. Every attempt at the first target has the `idempotency_key`, by
        default a new one. With a `schema`, the answer is JSON that fits it, parsed in `parsed`. If an answer does not
        fit, the model is shown the errors and asked again, at most `repairs` times.

        Raises:
            RejectedError: nothing was sent; it names the policy that rejected the call and when to come back.
            UpstreamError: the last attempt failed; the subclass tells how.
            ClientClosedError: this client was closed, before or meanwhile.
            ConfigurationError: the payload has no model or is not JSON, or the priority or the schema is invalid.
        """
        checks = None if schema is None else schema_of(schema, repairs)
        payload = {**payload, "model": self._resolver.first.model_of(payload)}
        body = encode_payload(payload)
        fields = fields_of(payload, body)
        template = RequestTemplate(
            endpoint, body, key=idempotency_key, fields=fields, schema=checks
        )
        config = self._resolver.resolve(template.model)
        ended = await self._run(config, template, _CallOptions(priority, deadline, tenant))
        target = ended.target or self.target(template.model)
        if ended.outcome.verdict is not Verdict.OK:
            raise add_attempt_notes(error_for(target, ended)) from ended.outcome.error
        return answer_of(target, ended, self._price_of)

    async def chat(
        self,
        /,  # an option may have any name
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        priority: Priority | None = None,
        deadline: float | None = None,
        tenant: str = "",
        schema: Schema | None = None,
        repairs: int = REPAIRS,
        **options: Any,
    ) -> Answer:
        """Request a chat completion, like `request`; `options` go into the payload (temperature, max_tokens, ...).

        Each of the `messages` has a "role" and a "content". Raises the same errors as `request`.
        """
        payload = {"model": model, "messages": list(messages), **options}
        return await self.request(
            "chat/completions",
            payload,
            priority=priority,
            deadline=deadline,
            tenant=tenant,
            schema=schema,
            repairs=repairs,
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
        """Send `payload` like `request`, and return the answer as a stream: see `http.stream.Stream`.

        Use it as ``async with client.stream(...) as stream``, or await it. Both wait for the first output. Until then
        attempts are retried, and it raises the same errors as `request`. `deadline` bounds the whole stream, the
        policy's attempt timeout the time to the first output, its idle timeout silence. A later failure raises
        StreamBrokenError, with the part that was received.
        """
        return PendingStream(
            self._open(endpoint, payload, _CallOptions(priority, deadline, tenant))
        )

    async def _open(
        self, endpoint: str, payload: Mapping[str, Any], options: _CallOptions
    ) -> Stream:
        payload = {**payload, "model": self._resolver.first.model_of(payload)}
        set_stream(payload, shape_of(endpoint))
        body = encode_payload(payload)
        template = RequestTemplate(endpoint, body, fields=fields_of(payload, body))
        config = self._resolver.resolve(template.model)
        call = self._call(config, template, options, delivers=True)
        sender = StreamSender(
            template, config.routes, self.engine.policy, self._driver.first_output, self.blocks
        )
        asker = asker_of(config, template) if call.fallbacks else None
        opened = await self._driver.open(call, sender, asker)
        target, source = sender.target or call.target, sender.stream_source
        price_of = self._price_of
        if isinstance(opened, CallResult):
            target = opened.target or target
            if opened.outcome.verdict is not Verdict.OK:
                raise add_attempt_notes(error_for(target, opened)) from opened.outcome.error
            if opened.source in (CACHE, DEGRADED):
                local = LocalSource(opened.outcome)
                return Stream(target, local, opened, opened.source, price_of=price_of)
            came_from = opened.source
        else:
            came_from = TARGET if target == call.target else FALLBACK
        assert source is not None
        return Stream(target, source, opened, came_from, price_of=price_of, client=self)

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
        schema: AnswerSchema | None = None,
        repairs: Repairs | None = None,
    ) -> CallResult:
        """Send an encoded JSON object with its model, and return the result of the call.

        At most `attempts` are made, even if the policy allows more. With `queue_is_free` the deadline begins when the
        first attempt leaves. The outcome's value is the last `Response`, if any; a stream is assembled. Every attempt
        at one target has the same idempotency key, at the first target `idempotency_key`. A caller that has parsed the
        body passes its `fields`. An answer that does not fit the `schema` is a failure, unless one of the `repairs`
        succeeds; a later call with the same `repairs` continues where this one ended.

        Raises:
            ConfigurationError: the body is not a JSON object or has no model, or the priority is invalid.
        """
        template = RequestTemplate(
            endpoint, body, key=idempotency_key, fields=fields, schema=schema, repairs=repairs
        )
        config = self._resolver.resolve(template.model)
        options = _CallOptions(priority, deadline, tenant, queue_is_free, attempts)
        return await self._run(config, template, options)

    def prepare(self, template: RequestTemplate) -> PreparedRequest:
        """Prepare the request that a call would send to its first target, to send it in a batch.

        Raises:
            ConfigurationError: the endpoint is not a path.
        """
        config = self._resolver.resolve(template.model)
        route, _ = config.route_and_steps(template.model)
        if config.reserves or self.engine.tenants:
            limit_output(self.engine, template, config, route, current().tenant or "")
        return template.prepare(route)

    def outcome_of(self, response: HttpResponse, request: PreparedRequest) -> Outcome:
        """Read a response from a batch to a prepared request, like one from a connection."""
        answer, key = WholeAnswer(request), self._resolver.first.origin.api_key
        answer(response)
        return outcome_of(answer.parsed, request, key, learn=False)

    async def send(self, resource: Resource, *, attempts: int | None = None) -> CallResult:
        """Send a request about a file or a job, such as a batch, and return the result; it has no fallbacks.

        At most `attempts` are made, even if the policy allows more. The outcome's value is the last `Response`, if any.

        Raises:
            ConfigurationError: the endpoint is not a path.
        """
        config = self._resolver.first
        span = config.policy.deadline
        call = make_call(
            self.engine,
            resource,
            config,
            config.routes.first(NO_MODEL),
            scope=current(),
            deadline_at=None if span is None else time.monotonic() + span,
            attempts=attempts,
        )
        sender = ResourceSender(
            resource, config.routes, self.engine.policy, self._driver.first_output, self.blocks
        )
        return await self._driver.run(call, sender)

    def _run(
        self, config: TargetConfig, template: RequestTemplate, options: _CallOptions
    ) -> Coroutine[Any, Any, CallResult]:
        if config.stream_on_wire:
            template.stream_on_wire()
        call = self._call(config, template, options)
        sender = BufferedSender(
            template, config.routes, self.engine.policy, self._driver.first_output, self.blocks
        )
        asker = asker_of(config, template) if call.fallbacks else None
        running = self._driver.run(call, sender, asker)  # not awaited: saves a frame in every call
        return _cached(config, template, running) if config.local_answers.caches else running

    def _call(
        self,
        config: TargetConfig,
        template: RequestTemplate,
        options: _CallOptions,
        *,
        delivers: bool = False,
    ) -> Call:
        route, steps = config.route_and_steps(template.model)
        span = config.policy.deadline if options.deadline is None else options.deadline
        return make_call(
            self.engine,
            template,
            config,
            route,
            scope=current(),
            steps=steps,
            deadline_at=None if span is None or options.queue_is_free else time.monotonic() + span,
            priority=None if options.priority is None else checked_priority(options.priority),
            tenant=options.tenant,
            attempts=options.attempts,
            span=span if options.queue_is_free else None,
            delivers=delivers,
        )

    async def close(self) -> None:
        """End every call of this client on the running loop, now or later, and close its connections there.

        Idempotent. On other loops the client stays open.
        """
        if self.blocks:
            self.stop()
        else:
            self.stop(asyncio.get_running_loop())
        for each in self._resolver.owned():
            await (
                each if isinstance(each, LocalAnswers) or not self.blocks else each.blocking
            ).close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _cached(
    config: TargetConfig, template: RequestTemplate, running: Coroutine[Any, Any, CallResult]
) -> CallResult:
    """Wait for the end of a call, and cache its answer."""
    ended = await running
    cache_answer(config, template, ended)
    return ended
