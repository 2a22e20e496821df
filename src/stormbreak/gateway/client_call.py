"""One call of a client through the engine: it waits for its key's limits, then runs like any other call.

It ends with a response in one piece, or begins a stream.
"""

from dataclasses import dataclass
from math import inf
from typing import Any

import msgspec

from stormbreak.core.flow import DeliverStream
from stormbreak.drivers.asyncio_driver import AsyncioDriver, Sender
from stormbreak.drivers.delivery import LoopDelivery
from stormbreak.drivers.explain import AttemptHistory
from stormbreak.errors import ConfigurationError
from stormbreak.gateway.errors import RefusedError
from stormbreak.gateway.keys import ClientKey
from stormbreak.gateway.limits import ClientQueues, Place
from stormbreak.gateway.request import ClientRequest, reference_in
from stormbreak.gateway.routing import GatewayRules
from stormbreak.gateway.settled_sender import SettledSender
from stormbreak.gateway.spending import ClientBudgets, SpendingSender
from stormbreak.gateway.usage_ledger import MeteredSender, UsageLedger
from stormbreak.http.request import REPORTS_USAGE, RequestTemplate, with_fields
from stormbreak.http.sender import BufferedSender, StreamSender, asker_of, cache_answer, make_call
from stormbreak.http.stream import Stream
from stormbreak.http.transports.sdk_response import begun_stream
from stormbreak.types import CANCELLED, Call, CallResult, Outcome, Target


class Opened(msgspec.Struct, frozen=True):
    """The outcome of `run`: an open stream, or the end of the call."""

    history: AttemptHistory
    stream: Stream | None
    ended: CallResult | None


@dataclass(slots=True)
class Limits:
    """The objects that all calls share besides the engine."""

    queues: ClientQueues
    budgets: ClientBudgets
    usage: UsageLedger | None = None


class GatewayCall:
    """One call. Call `close` when its answer has been sent or cannot be sent."""

    def __init__(
        self,
        request: ClientRequest,
        key: ClientKey,
        rules: GatewayRules,
        driver: AsyncioDriver,
        limits: Limits,
    ) -> None:
        """Find the target; raise RefusedError if the call may not go there."""
        self.key = key
        self.secrets = rules.secrets
        self.request = request
        self._driver = driver
        self._limits = limits
        self.lead = rules.lead(request.fields.model, key)
        reference = None if self.lead.is_single else reference_in(request)
        if reference is not None:
            message = (
                f"{reference} refers to one provider's memory, and this model may lead to several:"
                " ask for a model of a single target without fallbacks"
            )
            raise RefusedError(400, "stateful_request", message)
        self.reports_usage = (
            (key.metered or limits.usage is not None)
            and request.streamed
            and request.head.shape in REPORTS_USAGE
            and request.fields.stream_options is None
        )
        """Whether the stream gets a usage event that the client has not asked for."""
        self._places: list[Place] = []  # in the limits of the key and its tenant
        self._settled: list[SettledSender[Any]] = []
        self._outcome: Outcome | None = CANCELLED  # of the whole call; None: unknown
        self._sent = False  # as far as is known

    async def open(self) -> Opened:
        """Run the call to its end, or to the first output of a stream.

        Raises RefusedError if the limits of the key do not allow it.
        """
        try:
            template = self._template()
        except ConfigurationError as error:
            raise RefusedError(400, "invalid_body", str(error)) from None
        deadline, whole = self._deadlines(self._driver.clock())
        if self.key.holders:
            await self._enter(template, deadline)
        self._outcome, self._sent = None, True  # from now on it may be sent
        call = self._made(template, deadline, whole)
        sender = self._sender(template)
        asker = asker_of(self.lead.config, template) if call.fallbacks else None
        opened = await self._driver.open(call, self._counted(sender, call, template), asker)
        stream = begun_stream(sender, call, opened)
        if isinstance(opened, LoopDelivery):
            assert stream is not None
            return Opened(self._history(stream.target, opened.command), stream, None)
        self._outcome, self._sent = opened.outcome, opened.attempts > opened.unconnected
        history = self._history(opened.target or call.target, opened)
        if stream is None:
            cache_answer(self.lead.config, template, opened)
        return Opened(history, stream, opened)

    def ended(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def close(self) -> None:
        """Settle it with the limits of its key. If the outcome is unknown, the reserved amount counts."""
        for settled in self._settled:
            settled.end(self._outcome)
        for place in self._places:
            self._limits.queues.leave(place, self._outcome, sent=self._sent)

    def _template(self) -> RequestTemplate:
        request, lead = self.request, self.lead
        body = request.body
        if self.reports_usage:
            body = with_fields(body, request.parts, stream_options={"include_usage": True})
        template = RequestTemplate(
            request.head.endpoint,
            body,
            key=request.idempotency_key,
            fields=request.fields,
            parts=request.parts if body is request.body else None,
            passed=request.head.passed,
        )
        if lead.config.stream_on_wire and not request.streamed:
            template.stream_on_wire()
        if lead.max_output is not None:
            provider = lead.config.routes.first(lead.model).target.provider
            template.limit_output(lead.max_output, provider)
        return template

    def _deadlines(self, now: float) -> tuple[float | None, float | None]:
        """Return the deadline of the first output or a plain answer, and the deadline of a whole stream."""
        head = self.request.head
        whole = min(head.bound, self.lead.deadline)
        first = min(whole, head.read_timeout)
        first_at = None if first == inf else now + first
        return first_at, now + whole if self.request.streamed and whole != inf else None

    async def _enter(self, template: RequestTemplate, deadline: float | None) -> None:
        """Wait until the limits of the key and its tenant allow a call."""
        for holder in self.key.holders:
            if holder.target is not None:
                tokens = 0 if holder.limits.tpm is None else template.estimated_tokens()
                place = await self._limits.queues.enter(holder, tokens=tokens, deadline_at=deadline)
                self._places.append(place)

    def _made(self, template: RequestTemplate, deadline: float | None, whole: float | None) -> Call:
        request, config = self.request, self.lead.config
        route, steps = config.route_and_steps(self.lead.model)
        if request.streamed:  # a local answer is not a stream
            steps = tuple(step for step in steps if step.targets)
        return make_call(
            self._driver.engine,
            template,
            config,
            route,
            reserves=bool(self.key.spends),
            scope=self.key.scope,
            steps=steps,
            deadline_at=deadline,
            attempts=1 if request.lasts else None,
            delivers=request.streamed,
            stream_deadline_at=whole,
            tells_bound=False,  # the pages of the admin port do not show it
        )

    def _sender(self, template: RequestTemplate) -> BufferedSender | StreamSender:
        config, driver, timeout = self.lead.config, self._driver, self.request.head.read_timeout
        policy, on_output = driver.engine.policy, driver.first_output
        if not self.request.streamed:
            return BufferedSender(template, config.routes, policy, on_output)
        idle = None  # the patience in the policy of each target
        if timeout != inf:
            idle = min(timeout, config.policy.idle_timeout or inf)
        return StreamSender(template, config.routes, policy, on_output, idle_timeout=idle)

    def _counted(self, sender: Sender, call: Call, template: RequestTemplate) -> Sender:
        """Return a sender that reserves the maximum cost of each attempt, and notes the attempt in the ledger."""
        limits, key = self._limits, self.key
        if limits.usage is not None:
            bound = call.bound or template.token_bound()
            sender = self._settling(MeteredSender(sender, limits.usage, key, bound))
        for holder in key.holders:
            account = limits.budgets.account(holder)
            # A limit that was set after the call began does not apply to it.
            if account is not None and holder.limits.spend.acts:
                sender = self._settling(SpendingSender(sender, limits.budgets, account, call))
        return sender

    def _history(self, target: Target, result: CallResult | DeliverStream) -> AttemptHistory:
        """Return the history without attempts that were not sent because money was lacking."""
        unsent = sum([each.unsent for each in self._settled]) if self._settled else 0
        return AttemptHistory(
            target, result._replace(attempts=result.attempts - unsent) if unsent else result
        )

    def _settling(self, sender: SettledSender[Any]) -> Sender:
        self._settled.append(sender)
        return sender
