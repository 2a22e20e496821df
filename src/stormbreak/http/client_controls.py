"""What somebody does with a client that is at work: look at it, turn its circuits by hand, and end it."""

import asyncio
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from stormbreak.core.circuit_snapshot import parse_snapshots, span_in
from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.core.target_state import Listener
from stormbreak.cost.spend_gate import allow_spending
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.listeners import Attached, subscribe
from stormbreak.errors import ConfigurationError
from stormbreak.http.target_config import TargetResolver
from stormbreak.types import Target


class ClientControls:
    """An engine at work on some ground. All of this may be called from any thread."""

    engine: Engine

    def _stand(self, engine: Engine, ground: TargetResolver) -> None:
        self.engine = engine
        self._ground = ground
        self._driver = AsyncioDriver(engine)

    @property
    def policy(self) -> Policy:
        """What its calls go by; of a pool, that of its first target."""
        return self._ground.first.policy

    def target(self, model: str) -> Target:
        """The target that calls for `model` go to first; of a pool, that of its first."""
        return self._ground.first.target(model)

    def subscribe(self, listener: Listener) -> Attached:
        """Have `listener` called with every event, until what is returned is detached.

        It may not make calls on this client.
        """
        return subscribe(self.engine, listener)

    def snapshot(self, *, pending: bool = True) -> dict[str, Any]:
        """What stands where: every target's circuit, queue, limit and cooldown, and the retry budget.

        And what each call waits for that is `pending`, which is much where many are.
        """
        return self._driver.snapshot(pending=pending)

    def isolate(self, target: Target | str, *, duration: float | None = None) -> None:
        """Open the circuit of a target, or of a model, by hand: nothing passes.

        Until `reset`, or for `duration` seconds, after which probes decide. From any thread, as all that is done by
        hand. Calls in the queue that fail fast are rejected at once.

        Raises:
            ConfigurationError: the policy has no circuit breaker, or `duration` is no span of time.
        """
        if self.policy.breaker is None:
            raise ConfigurationError("the policy has no breaker: no circuit can be isolated")
        where = self._known(target)
        self._driver.between_steps(
            lambda engine, now: engine.isolate(where, now, duration=duration)
        )

    def reset(self, target: Target | str) -> None:
        """Close the circuit of a target, or of a model, by hand, and lift its cooldown; who waited leaves."""
        where = self._known(target)
        self._driver.between_steps(lambda engine, now: engine.reset(where, now))

    def save_circuits(self) -> dict[str, Any]:
        """The circuits that are not closed, by model, in plain values for `restore_circuits` of another process.

        Those of targets elsewhere, where calls fell back to, are not among them.
        """
        saved = self._driver.between_steps(lambda engine, now: engine.save_circuits(now))
        circuits = {
            target.model: circuit.as_dict()
            for target, circuit in saved.items()
            if target == self.target(target.model)
        }
        return {"circuits": circuits, "saved_at": time.time()}

    def restore_circuits(self, values: Mapping[str, Any]) -> None:
        """Take up what `save_circuits` gave; the time since then counts, by the wall clock.

        Without a breaker in the policy, nothing is taken up.

        Raises:
            ConfigurationError: names what cannot be right; nothing has changed.
        """
        circuits = parse_snapshots(values)
        elapsed = max(0.0, time.time() - span_in(values, "saved_at"))
        saved = {self.target(model): circuit for model, circuit in circuits.items()}
        self._driver.between_steps(lambda engine, now: engine.restore_circuits(saved, now, elapsed))

    def pause(self, target: Target | str, seconds: float) -> None:
        """Leave a target, or a model, alone for so many seconds, as it asked an earlier process."""
        where = self._known(target)
        self._driver.between_steps(lambda engine, now: engine.pause(where, seconds, now))

    def may_spend(self, most: Decimal) -> None:
        """Let what is spent under its policy's limit go up to so many US dollars by now, and not yet to the limit."""
        policy = self.policy
        self._driver.between_steps(lambda engine, now: allow_spending(engine, policy, most, now))

    def _known(self, target: Target | str) -> Target:
        return self.target(target) if isinstance(target, str) else target

    def drain(self) -> None:
        """Let what was sent be answered, and end as CANCELLED every call that waits, now or later."""
        self._driver.drain()

    def stop(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """End every call of this client on `loop`, or on every loop, now or later, with a `ClientClosedError`.

        A stream ends with a `StreamBrokenError`. From any thread; connections that nobody uses stay open.
        """
        self._driver.close(loop)
