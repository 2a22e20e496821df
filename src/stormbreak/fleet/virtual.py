"""A fleet in virtual time: one store of pure scopes for all simulated engines, some milliseconds away."""

import random
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from math import inf
from typing import Any

from stormbreak.core.engine import Engine
from stormbreak.drivers.flow_stepper import stepper_of
from stormbreak.drivers.virtual_time import Timeline, Timer
from stormbreak.fleet.lease_renewal import Membership
from stormbreak.fleet.messages import TIMEOUT, Answer, Report
from stormbreak.fleet.shared_limits import SharedLimits
from stormbreak.fleet.store_rules import Scope, beat

EPOCH = 1_000_000.0  # seconds; a store's clock is never 0
ONE_WAY = 0.001  # seconds to the store
RETRY = 1.0  # seconds after a failure


class VirtualStore:
    """The store, and its distance. While it is `down`, beats fail after TIMEOUT."""

    def __init__(self, timeline: Timeline, *, seed: int = 0) -> None:
        self.timeline = timeline
        self.down = False
        self.scopes: dict[str, Scope] = {}
        self.beats = 0
        self.round_trips = 0
        self._timers: dict[Membership, Timer] = {}
        self._engines: dict[Membership, Engine] = {}
        self._members: dict[Engine, list[Membership]] = {}
        self._names = count()
        self._chance = random.Random(seed).random  # noqa: S311 - reproducible, not secret

    def fleet(self) -> SharedLimits:
        return SharedLimits(lambda _: self, self._chance, lambda: f"m{next(self._names):05}")

    # ------------------------------------------------------------ a carrier

    def add(self, engine: Engine, membership: Membership) -> None:
        self._engines[membership] = engine
        self._members.setdefault(engine, []).append(membership)
        self.wake(membership)

    def remove(self, membership: Membership) -> None:
        engine = self._engines.pop(membership, None)
        if engine is not None:
            self._members[engine].remove(membership)

    def wake(self, membership: Membership) -> None:
        """Make a membership report at once, or after the pending answer."""
        if membership.next_at != -inf:
            membership.next_at = -inf
            self._schedule(membership, self.timeline.now)

    def snapshot(self) -> Mapping[str, Any]:
        return {"store": "virtual", "sharing": not self.down, "since": 0.0, "members": 0}

    def _schedule(self, member: Membership, at: float) -> None:
        known = self._timers.pop(member, None)
        if known is not None:
            self.timeline.cancel(known)
        if at != inf:
            self._timers[member] = self.timeline.at(at, partial(self._beat, member))

    def _between_steps(self, member: Membership, do: Callable[[float], Any]) -> Any:
        engine = self._engines.get(member)
        stepper = None if engine is None else stepper_of(engine)
        return None if stepper is None else stepper.between_steps(lambda _, now: do(now))

    def _beat(self, member: Membership) -> None:
        """Report a member, and with it the members of the same engine that are almost due."""
        now = self.timeline.now
        if not self._report(member):
            return
        self.round_trips += 1
        for other in self._members[self._engines[member]]:
            if other is not member and min(other.next_at, other.along_at) <= now:
                self._report(other, along=True)

    def _report(self, member: Membership, *, along: bool = False) -> bool:
        """Report if there is something new; return whether there was."""
        known = self._timers.pop(member, None)
        if known is not None:
            self.timeline.cancel(known)
        report = self._between_steps(member, partial(member.due_report, along=along))
        if report is None:
            if member in self._engines:
                self._schedule(member, member.next_at)
            return False
        self.beats += 1
        timeline, sent_at = self.timeline, self.timeline.now
        if self.down:
            timeline.at(sent_at + TIMEOUT, partial(self._fail, member))
        else:
            timeline.at(sent_at + ONE_WAY, partial(self._process, member, report, sent_at))
        return True

    def _process(self, member: Membership, report: Report, sent_at: float) -> None:
        timeline = self.timeline
        scope = self.scopes.setdefault(member.scope, Scope())
        answer = beat(scope, member.name, report, timeline.now + EPOCH)
        timeline.at(timeline.now + ONE_WAY, partial(self._answer, member, answer, sent_at))

    def _answer(self, member: Membership, answer: Answer, sent_at: float) -> None:
        self._between_steps(member, partial(member.apply, answer, sent_at))
        self._schedule(member, member.next_at)

    def _fail(self, member: Membership) -> None:
        self._between_steps(member, lambda now: member.fail(now, RETRY))
        self._schedule(member, member.next_at)
