"""Looks at all processes of a simulation together, once in each second, and changes nothing in them.

A process in which nothing is under way stands still: it is not looked at again until a call arrives in it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from stormbreak.core.automatic import AutomaticLimiter
from stormbreak.core.circuit import State
from stormbreak.core.engine import Lane
from stormbreak.provider.model import ProviderModel
from stormbreak.storm.series import Look


class _Standing(NamedTuple):
    """The limit of one process; whether it binds; whether its circuit is not closed."""

    limit: int
    binds: bool
    shut: bool


class Watch:
    """Sums up what stands in the `lanes`, one for each process, and in the provider."""

    def __init__(self, lanes: Sequence[Lane], model: ProviderModel, *, limited: bool) -> None:
        """`limited`: whether the policy has a limit at all."""
        self._lanes = lanes
        self._model = model
        self._limited = limited
        self._awake: set[int] = set()
        self._asleep = {number: _standing(lane, 0.0) for number, lane in enumerate(lanes)}
        self._limit = sum(stands.limit for stands in self._asleep.values())  # of those asleep, ...
        self._binding = sum(stands.binds for stands in self._asleep.values())
        self._shut = sum(stands.shut for stands in self._asleep.values())

    def wake(self, process: int) -> None:
        """Say that a call arrives in a process."""
        if process not in self._awake:
            self._awake.add(process)
            self._count(self._asleep.pop(process), -1)

    def look(self, now: float) -> Look:
        """Say what stands now."""
        in_flight = queued = limit = binding = shut = 0
        for process in list(self._awake):
            lane = self._lanes[process]
            stands = _standing(lane, now)
            in_flight += lane.slots.in_flight
            queued += lane.admission.queued
            limit += stands.limit
            binding += stands.binds
            shut += stands.shut
            if lane.idle and not (stands.binds and isinstance(lane.slots, AutomaticLimiter)):
                self._awake.remove(process)
                self._asleep[process] = stands
                self._count(stands, 1)
                limit, binding, shut = (
                    limit - stands.limit,
                    binding - stands.binds,
                    shut - stands.shut,
                )
        binding += self._binding
        return Look(
            in_flight=in_flight,
            queued=queued,
            limit=limit + self._limit if self._limited and binding == len(self._lanes) else None,
            limited=binding if self._limited else 0,
            open_circuits=shut + self._shut,
            queued_at_provider=self._model.queued,
            wasted=self._model.clients.wasted_work,
        )

    def _count(self, stands: _Standing, sign: int) -> None:
        self._limit += sign * stands.limit
        self._binding += sign * stands.binds
        self._shut += sign * stands.shut


def _standing(lane: Lane, now: float) -> _Standing:
    slots, breaker = lane.slots, lane.breaker
    shut = breaker is not None and breaker.state is not State.CLOSED
    return _Standing(slots.limit, slots.binds(now), shut)
