"""Attempts of one call that are under way at the same time, each in a task of its own."""

import asyncio
from collections.abc import Awaitable, Callable
from math import inf

from stormbreak.core.flow import Command, Flow, Race, Send
from stormbreak.drivers.steps import Stepper
from stormbreak.types import Call, CallResult, Outcome

_losing: set["asyncio.Task[Outcome]"] = set()
"""Tasks that were given up and have not ended yet: a loop keeps none but weak references."""


class HedgeTasks:
    """Steps the flow of one call that may race, and carries its races out; `send` makes one attempt."""

    def __init__(self, stepper: Stepper, send: Callable[[Send], Awaitable[Outcome]]) -> None:
        self._stepper = stepper
        self._send = send
        self._tasks: dict[Send, asyncio.Task[Outcome]] = {}
        self._ended: list[Send] = []  # in the order in which they did
        self._wake: asyncio.Future[None] | None = None

    def start(self, call: Call) -> tuple[Flow, Command | CallResult]:
        """Start the flow of `call`, and tell it that it may race."""
        return self._stepper.start(call._replace(races=True))

    def step(self, flow: Flow, outcome: Outcome | None) -> Command | CallResult:
        """Resume `flow`; whoever is no part of its next command is given up."""
        command = self._stepper.step(flow, outcome)
        self._keep(command.sends if isinstance(command, Race) else ())
        return command

    def close(self, flow: Flow) -> None:
        """Close `flow`, and give up all attempts."""
        self._stepper.close(flow)
        self._keep(())

    def drop(self, flow: Flow) -> None:
        """The same in a finalizer."""
        self._stepper.drop(flow)
        self._keep(())

    async def until_first(self, race: Race) -> Outcome | None:
        """Have all of `race` under way until the first ends, with its outcome, or its time has come, with None."""
        loop = asyncio.get_running_loop()
        for send in race.sends:
            if send not in self._tasks:
                self._tasks[send] = loop.create_task(self._attempt(send))
        if not self._ended:
            await self._until(race.until)
        if not self._ended:
            return None
        race.first = self._ended.pop(0)
        return self._tasks.pop(race.first).result()

    async def _until(self, until: float) -> None:
        loop, timer = asyncio.get_running_loop(), None
        self._wake = loop.create_future()
        if until != inf:
            timer = loop.call_later(until - self._stepper.clock(), self._rouse)
        try:
            await self._wake
        finally:
            self._wake = None
            if timer is not None:
                timer.cancel()

    async def _attempt(self, send: Send) -> Outcome:
        try:
            return await self._send(send)
        finally:
            self._ended.append(send)
            self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _keep(self, sends: tuple[Send, ...]) -> None:
        for send in [send for send in self._tasks if send not in sends]:
            task = self._tasks.pop(send)
            _losing.add(task)
            task.add_done_callback(_lost)
            task.cancel()
        self._ended = [send for send in self._ended if send in self._tasks]


def _lost(task: "asyncio.Task[Outcome]") -> None:
    """Close what an attempt brought that was answered in the instant in which it was given up."""
    _losing.discard(task)
    if not task.cancelled() and task.exception() is None and task.result().committed:
        task.result().value.close()
