"""One call to an LLM API: its `Call` for the engine, and the sender of its attempts."""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from stormbreak.core.engine import Engine
from stormbreak.core.fallback_policy import Step
from stormbreak.core.flow import Ask, Send
from stormbreak.core.policy import Policy
from stormbreak.drivers.asyncio_driver import Asker
from stormbreak.drivers.scope import Scope
from stormbreak.drivers.timeouts import AnsweredError
from stormbreak.http.h1.connection import Connection
from stormbreak.http.prepared_request import CONNECT_TIMEOUT, PreparedRequest
from stormbreak.http.request import Lookup, RequestTemplate, headers_for
from stormbreak.http.response import Parsed, WholeAnswer, assemble_stream, outcome_of
from stormbreak.http.routing import Route, Routes, TargetConfig
from stormbreak.http.stream_source import Source, open_source
from stormbreak.llm.endpoints import OPERATIONS
from stormbreak.types import Call, CallResult, Outcome, Priority, Target, Verdict

CONNECT_SHARE = 0.9  # of an attempt's time for connecting; the rest is needed to report a failure


def make_call(  # noqa: PLR0913 - keywords are cheap to read
    engine: Engine,
    template: RequestTemplate | Lookup,
    config: TargetConfig,
    route: Route,
    *,
    scope: Scope,
    deadline_at: float | None,
    steps: tuple[Step, ...] = (),
    reserves: bool = False,
    priority: Priority | None = None,
    tenant: str = "",
    attempts: int | None = None,
    span: float | None = None,
    delivers: bool = False,
    stream_deadline_at: float | None = None,
    tells_bound: bool = True,
) -> Call:
    """Prepare the request to the first target, and make the call. A scope never extends a deadline or the policy.

    `reserves`: reserve tokens or dollars even without limits of its targets and its tenant. `priority`, `tenant` and
    `attempts` have precedence over the scope's. `tells_bound`: listeners get the maximum tokens of an attempt.

    Raises:
        ConfigurationError: the endpoint is not a path.
    """
    policy, tenant = config.policy, tenant or scope.tenant or ""
    limited = engine.tenants.get(tenant)
    if config.reserves or limited is not None:
        limit_output(engine, template, config, route, tenant)
    template.prepare(route)  # kept in the template; an error comes before any wait
    reserves = reserves or config.reserves or (limited is not None and limited.limits.reserves)
    needs_bound = reserves or (tells_bound and engine.listeners)
    bound = template.token_bound() if needs_bound else None
    if priority is None:
        priority = policy.priority if scope.priority is None else scope.priority
    return Call(
        engine.number(),
        route.target,
        deadline_at=deadline_at if scope.deadline_at is None else scope.earlier(deadline_at),
        patience=policy.patience,
        priority=priority,
        fail_fast=policy.fail_fast,
        span=span,
        max_attempts=scope.max_attempts if attempts is None else attempts,
        tenant=tenant,
        streams=template.reports_output,
        tokens=template.estimated_tokens() if reserves else 0,
        delivers=delivers,
        fallbacks=steps,
        stream_deadline_at=stream_deadline_at,
        labels=scope.labels,
        operation=OPERATIONS.get(template.shape, ""),
        bound=bound,
        unbounded=template.unbounded_reason() if reserves and bound is None else "",
    )


def asker_of(config: TargetConfig, template: RequestTemplate) -> Asker:
    """Return the function that finds local answers for fallbacks of a call."""
    request = template.local_request(config.origin)

    async def find(ask: Ask) -> Outcome | None:
        found = await config.local_answers.find(ask, request)
        return None if found is None else template.check(found, None)

    return find


def cache_answer(config: TargetConfig, template: RequestTemplate, ended: CallResult) -> None:
    """Cache the answer of a call, if its fallbacks use a cache."""
    if config.local_answers.caches:
        config.local_answers.store(template.local_request(config.origin), ended)


def limit_output(
    engine: Engine,
    template: RequestTemplate | Lookup,
    config: TargetConfig,
    route: Route,
    tenant: str,
) -> None:
    """Limit the output of a body that sets no limit itself, by the spend limits of its first target and of its tenant."""
    spends, limited = [config.policy.spend], engine.tenants.get(tenant)
    if limited is not None:
        spends.append(limited.limits.spend)
    limits = [each.max_output_tokens for each in spends if each.acts and each.max_output_tokens]
    template.limit_output(min(limits, default=None), route.target.provider)


PreparedAttempt: TypeAlias = tuple[Send, Connection, PreparedRequest, Policy, str | None]
"""One attempt, ready to be sent, and the API key to redact."""


# Made for each call: the constructor of a Struct is not written in Python.
class Sender(msgspec.Struct, eq=False):
    """Sends the attempts of one call. The driver calls it for each `Send` that the call's flow yields.

    `on_output` is called at the first output of an assembled stream. `idle_timeout`, in seconds, is by default that of the
    policy. `blocks`: it runs on a blocked thread. In a delivered call, `stream_source` is the stream that succeeded, or
    the last one, from `target`.
    """

    template: RequestTemplate | Lookup
    routes: Routes
    policy: Policy
    on_output: Callable[[Send], None]
    blocks: bool = False
    idle_timeout: float | None = None
    target: Target | None = None
    stream_source: Source | None = None

    async def __call__(self, command: Send) -> Outcome:
        """Send once. The driver ends the attempt after `command.timeout` seconds.

        An attempt without a connection shortly before that has failed to connect: nothing can have been processed.
        """
        found = self.template.prepared.get(command.target)
        if found is None:
            route = self.routes.route(command.target)
            request = self.template.prepare(route)
        else:
            route, request = found
        api_key = route.origin.api_key
        if route.key is not None:
            origin = await route.key.ask(route.origin, allow_http=route.allow_http)
            if isinstance(origin, Outcome):
                return origin
            api_key = origin.api_key
            request = request._replace(headers=headers_for(origin, request))
        policy, timeout = route.policy or self.policy, command.timeout
        connection = route.connection.blocking if self.blocks else route.connection
        connect = request.connect_timeout
        if timeout is not None:
            connect = min(connect, CONNECT_SHARE * timeout)
        idle = policy.idle_timeout if self.idle_timeout is None else self.idle_timeout
        request = replace(  # quicker than `_replace`
            request, idle_timeout=idle, connect_timeout=connect, attempt_timeout=timeout
        )
        outcome = await self._attempt((command, connection, request, policy, api_key))
        if outcome.verdict is Verdict.CONNECT_FAILED and _is_too_short(outcome, timeout, policy):
            return outcome._replace(own_deadline=True)
        return outcome

    async def _attempt(self, attempt: PreparedAttempt) -> Outcome:
        raise NotImplementedError


class BufferedSender(Sender):
    """Waits for the end of each answer."""

    async def _attempt(self, attempt: PreparedAttempt) -> Outcome:
        command, connection, request, policy, api_key = attempt
        learn, cancel = policy.rate_limit.learn_from_headers, None
        result: Parsed | Outcome
        if not request.streamed:
            answer = WholeAnswer(request)
            got = await connection.exchange(request, answer)
            result = got if isinstance(got, Outcome) else answer.parsed
        else:
            stream = await connection.open(request)
            if isinstance(stream, Outcome):
                return stream
            first = partial(self.on_output, command)
            on_output = first if self.template.reports_output else None
            result, cancel = await assemble_stream(stream, request, policy.stall_timeout, on_output)
        if isinstance(result, Outcome):
            return result
        outcome = outcome_of(result, request, api_key, learn=learn)
        if self.template.schema is not None:
            outcome = self.template.check(outcome, command.target)
        if cancel is not None:
            raise AnsweredError(outcome, cancel)
        return outcome


class StreamSender(Sender):
    """Waits for the first output of each answer."""

    has_succeeded: bool = False

    async def _attempt(self, attempt: PreparedAttempt) -> Outcome:
        command, connection, request, policy, api_key = attempt
        outcome, source = await open_source(
            connection,
            request,
            api_key,
            stall_timeout=policy.stall_timeout,
            learn=policy.rate_limit.learn_from_headers,
            on_cancelled=partial(self._take, command, succeeded=True),
        )
        self._take(command, source, succeeded=outcome.verdict is Verdict.OK)
        return outcome

    def _take(self, command: Send, source: Source | None, *, succeeded: bool) -> None:
        if not self.has_succeeded:  # attempts may race: a late one changes nothing
            self.target, self.stream_source = command.target, source
            self.has_succeeded = succeeded


def _is_too_short(outcome: Outcome, timeout: float | None, policy: Policy) -> bool:
    """Whether our own deadline left less than the usual time to connect."""
    usual = policy.attempt_timeout
    return (
        isinstance(outcome.error, TimeoutError)
        and timeout is not None
        and CONNECT_SHARE * timeout < CONNECT_TIMEOUT
        and (usual is None or timeout < usual)
    )
