"""One call for one request: how long it may take, and how its attempts are sent."""

import time
from collections.abc import Callable
from functools import partial
from math import inf

from stormbreak.core.engine import Engine
from stormbreak.core.fallback import Step
from stormbreak.core.flow import Send
from stormbreak.http.doors.asks import Ask, Look
from stormbreak.http.doors.request import Spans
from stormbreak.http.exchange import attempt, if_cut_short
from stormbreak.http.routes import Routes
from stormbreak.http.source import Source, begin
from stormbreak.types import Call, Outcome, Target


def call_of(
    engine: Engine, asked: Ask | Look, spans: Spans, target: Target, steps: tuple[Step, ...]
) -> Call:
    """Make the call. The SDK's own timeout bounds all of a plain call, and of a stream the time to its first output."""
    policy, now = engine.policy, time.monotonic()
    whole, read = policy.deadline or inf, spans.read or inf
    deadline = min(whole, read)
    if asked.delivers:  # an answer at hand is no stream
        steps = tuple(step for step in steps if step.targets)
    return Call(
        engine.number(),
        target,
        None if deadline == inf else now + deadline,
        policy.patience,
        policy.priority,
        policy.fail_fast,
        streams=asked.begins,
        tokens=asked.tokens() if policy.quota.acts else 0,
        delivers=asked.delivers,
        fallbacks=steps,
        end_at=now + whole if asked.delivers else None,
    )


class Sender:
    """Sends the attempts of one call, and remembers where the last of them went, and what began to come."""

    def __init__(
        self,
        asked: Ask | Look,
        routes: Routes,
        spans: Spans,
        engine: Engine,
        first: Callable[[Send], None],
    ) -> None:
        self.target: Target | None = None
        self.source: Source | None = None
        self._asked = asked
        self._routes = routes
        self._policy = policy = engine.policy
        self._first = first
        self._idle = policy.idle_timeout
        if asked.delivers and spans.read is not None:
            self._idle = min(spans.read, inf if self._idle is None else self._idle)

    async def __call__(self, command: Send) -> Outcome:
        """Send once; of a call that delivers, wait for the first output only."""
        send = self._open if self._asked.delivers else self._exchange
        self.target = command.target
        return if_cut_short(await send(command), command.timeout, self._policy.attempt_timeout)

    async def _exchange(self, command: Send) -> Outcome:
        route = self._routes.route(command.target)
        return await attempt(
            route.wire,
            route.origin,
            self._asked.to(route),
            idle_timeout=self._idle,
            stall_timeout=self._policy.stall_timeout,
            within=command.timeout,
            first=partial(self._first, command) if self._asked.begins else None,
            learn=self._policy.quota.learn,
        )

    async def _open(self, command: Send) -> Outcome:
        route = self._routes.route(command.target)
        outcome, self.source = await begin(
            route.wire,
            route.origin,
            self._asked.to(route),
            idle_timeout=self._idle,
            stall_timeout=self._policy.stall_timeout,
            within=command.timeout,
            learn=self._policy.quota.learn,
        )
        return outcome
