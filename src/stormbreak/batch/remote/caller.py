"""Send requests about batches until they are answered, as `batch run` sends rows.

An attempt that fails for a transient cause is repeated, up to ten attempts in all: after the time that the provider
names, else after a backoff. A request that creates something is never repeated blindly: the provider may have received
it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from stormbreak.batch.run_options import BatchOptions
from stormbreak.batch.running.failure_reasons import failure_of, message_in
from stormbreak.batch.running.run_policy import policy_of_run
from stormbreak.core.policy import Policy
from stormbreak.core.presets import is_off
from stormbreak.core.row_schedule import Final, Reschedule, RowAttempt, Schedule
from stormbreak.drivers.chance import draw
from stormbreak.errors import ConfigurationError, StormbreakError
from stormbreak.hidden_keys import hidden
from stormbreak.http.client import AsyncClient
from stormbreak.http.resource import Resource
from stormbreak.http.response import Response
from stormbreak.types import CallResult, Verdict

T = TypeVar("T")


class RemoteError(StormbreakError):
    """The provider refused a request, or never gave a valid answer; the message has no key and no prompt."""

    def __init__(self, message: str, verdict: Verdict = Verdict.BROKEN) -> None:
        super().__init__(message)
        self.verdict = verdict


def policy_for(policy: Policy, options: BatchOptions) -> Policy:
    """Put the options into a policy without hedges: those would send or write a file twice at the same time."""
    return replace(policy_of_run(policy, options), hedge=None)


class Caller:
    """Sends requests of one client. If nothing ever answers within `grace` seconds, it gives up."""

    def __init__(self, client: AsyncClient, *, grace: float) -> None:
        self.client = client
        self._grace = grace
        self._reached = False

    async def send(self, resource: Resource, what: str) -> bytes:
        """Send a request that may be repeated; return the body of the response. `what` names the action in messages.

        Raises RemoteError if the last attempt failed, ConfigurationError if nothing answers at the address.
        """
        body = await self._until_answered(resource, what, attempts=None, found=None)
        assert isinstance(body, bytes)
        return body

    async def create(
        self, resource: Resource, what: str, find: Callable[[], Awaitable[T | None]]
    ) -> bytes | T:
        """Send a request that must not arrive twice: repeat one that may have arrived only if `find` finds nothing.

        Returns the body of the response, or the result of `find`. Raises as `send`.
        """
        return await self._until_answered(resource, what, attempts=1, found=find)

    async def _until_answered(
        self,
        resource: Resource,
        what: str,
        *,
        attempts: int | None,
        found: Callable[[], Awaitable[T | None]] | None,
    ) -> bytes | T:
        policy = self.client.policy
        schedule = Schedule(iter([0]), once=is_off(policy), spread=policy.retry.retry_after_jitter)
        began = time.monotonic()
        while True:
            turn = schedule.take(time.monotonic())
            if not isinstance(turn, RowAttempt):
                assert turn is not None, "a request that has ended is not sent again"
                await asyncio.sleep(max(0.0, turn - time.monotonic()))
                continue
            ended = await self.client.send(resource, attempts=attempts or turn.left)
            fate = schedule.settle(turn, ended, time.monotonic(), draw())
            if ended.outcome.verdict is Verdict.OK:
                self._reached = True
                response: Response = ended.outcome.value
                return response.body
            self._check_reached(ended, began)
            if found is not None and ended.maybe_processed:
                there = await found()
                if there is not None:
                    return there
            if not isinstance(fate, Reschedule):
                raise RemoteError(self._explained(ended, fate, what), ended.outcome.verdict)

    def _check_reached(self, ended: CallResult, began: float) -> None:
        self._reached = self._reached or ended.outcome.status is not None
        if not self._reached and time.monotonic() - began > self._grace:
            why = ended.outcome.detail or ended.outcome.verdict.value
            raise ConfigurationError(
                f"{hidden(self.client.base_url)}: nothing answers there: {why}"
            )

    def _explained(self, ended: CallResult, fate: Final, what: str) -> str:
        failure = failure_of(ended, fate, time.monotonic())
        received = ended.outcome.value
        body = received.body if isinstance(received, Response) else b""
        parts = [
            f"{hidden(self.client.base_url)}: cannot {what}",
            failure.message,
            message_in(body, b""),
        ]
        return ": ".join(part for part in parts if part)
