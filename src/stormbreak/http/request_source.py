"""How the attempts of one call are sent to wherever the engine says: to be answered whole, or as they come."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from stormbreak.core.flow import Send
from stormbreak.core.policy import Policy
from stormbreak.http.exchange import Asked, attempt, cancelled_outcome
from stormbreak.http.routes import Route, Routes
from stormbreak.http.stream_source import Source, begin
from stormbreak.types import Outcome, Target, Verdict


class RequestSource(Protocol):
    """What is asked, as a sender has to know it."""

    @property
    def begins(self) -> bool:
        """Whether its first output can be told from its end."""

    def to(self, route: Route, /) -> Asked:
        """What is sent there."""


class Sender:
    """What all senders know. `idle_timeout`, in seconds, is that of the policy unless something else is said.

    Where answers are handed over as they come, the `source` of the one that was good, or else of the last, is there to be
    read on, at its `target`.
    """

    target: Target | None = None
    source: Source | None = None

    def __init__(
        self,
        asked: RequestSource,
        routes: Routes,
        policy: Policy,
        *,
        idle_timeout: float | None = None,
    ) -> None:
        self._asked = asked
        self._routes = routes
        self._policy = policy
        self._idle = idle_timeout

    def _idle_timeout(self, policy: Policy) -> float | None:
        return policy.idle_timeout if self._idle is None else self._idle


class BufferedSender(Sender):
    """Waits for the end of each answer. `first` hears of the first output, where that can be told."""

    def __init__(
        self,
        asked: RequestSource,
        routes: Routes,
        policy: Policy,
        first: Callable[[Send], None],
        *,
        idle_timeout: float | None = None,
    ) -> None:
        super().__init__(asked, routes, policy, idle_timeout=idle_timeout)
        self._first = first

    async def __call__(self, command: Send) -> Outcome:
        """Send once."""
        timeout = command.timeout
        route = self._routes.route(command.target)
        policy, origin = route.policy or self._policy, await route.keyed()
        if isinstance(origin, Outcome):
            return origin
        outcome = await attempt(
            route.wire,
            origin,
            self._asked.to(route),
            idle_timeout=self._idle_timeout(policy),
            stall_timeout=policy.stall_timeout,
            within=timeout,
            first=partial(self._first, command) if self._asked.begins else None,
            learn=policy.rate_limit.learn_from_headers,
        )
        return cancelled_outcome(outcome, timeout, policy.attempt_timeout)


class StreamSender(Sender):
    """Waits for the first output of each answer."""

    _is_good = False

    async def __call__(self, command: Send) -> Outcome:
        """Send once."""
        timeout = command.timeout
        route = self._routes.route(command.target)
        policy, origin = route.policy or self._policy, await route.keyed()
        if isinstance(origin, Outcome):
            return origin
        outcome, source = await begin(
            route.wire,
            origin,
            self._asked.to(route),
            idle_timeout=self._idle_timeout(policy),
            stall_timeout=policy.stall_timeout,
            within=timeout,
            learn=policy.rate_limit.learn_from_headers,
            came=partial(self._take, command, is_good=True),
        )
        self._take(command, source, is_good=outcome.verdict is Verdict.OK)
        return cancelled_outcome(outcome, timeout, policy.attempt_timeout)

    def _take(self, command: Send, source: Source | None, *, is_good: bool) -> None:
        if not self._is_good:  # attempts may race: one that comes too late changes nothing
            self.target, self.source = command.target, source
            self._is_good = is_good
