"""The asyncio driver on the virtual loop, and a target with scripted outcomes."""

import asyncio

from stage import OK, TARGET
from virtual_loop import now

from stormbreak.core.engine import Engine
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.types import Call


class Bench:
    """Starts calls to one target, and checks what they leave behind."""

    def __init__(self, rules):
        self.engine = Engine(rules)
        self.driver = AsyncioDriver(
            self.engine, clock=asyncio.get_running_loop().time, chance=lambda: 0.0
        )
        self.state = self.engine.target_state(TARGET)
        self.sent = []

    def call(self, *outcomes, takes=1.0, within=None, **call):
        """Start a call whose attempts end in `outcomes`, each after `takes` seconds."""
        return self.run(self._scripted(outcomes or (OK,), takes), within=within, **call)

    def run(self, sender, *, within=None, **call):
        return asyncio.create_task(self.driver.run(self._numbered(within, call), sender))

    async def open(self, *outcomes, takes=1.0, within=None):
        """Open a streamed answer; its attempts end in `outcomes`, or start to be read with them."""
        call = self._numbered(within, {"delivers": True, "streams": True})
        return await self.driver.open(call, self._scripted(outcomes, takes))

    @property
    def in_flight(self):
        return self.state.slots.in_flight

    async def assert_at_rest(self):
        """No slot is held, no call waits, and the next call succeeds."""
        breaker = self.state.breaker
        assert (self.in_flight, self.state.admission.queued) == (0, 0)
        assert breaker is None or breaker.trial is None or not breaker.trial.probes
        assert self.engine.woken == []
        last = await self.call(OK, fail_fast=False)
        assert last.outcome == OK
        assert (self.in_flight, self.state.admission.queued) == (0, 0)

    def _numbered(self, within, call):
        deadline_at = None if within is None else now() + within
        return Call(self.engine.number(), TARGET, deadline_at=deadline_at, **call)

    def _scripted(self, outcomes, takes):
        answers = iter(outcomes)

        async def sender(send):
            self.sent.append((round(now(), 6), send.attempt))
            await asyncio.sleep(takes)
            return next(answers)

        return sender
