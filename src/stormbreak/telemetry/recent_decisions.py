"""The decisions of late: alike and close together they count as one, or a storm would push out all but its last instant."""

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from stormbreak.events import (
    CallRejected,
    CircuitChanged,
    CooldownStarted,
    Event,
    FallbackRefused,
    FellBack,
    Hedged,
    HedgeRefused,
    RetryPlanned,
    RetryRefused,
    WouldHave,
)
from stormbreak.telemetry.event_text import name_of, words_for
from stormbreak.telemetry.state import Decision

MOST = 50
TOGETHER = 2.0  # seconds after which what is alike is something new

_ALIKE: Mapping[type, Callable[[Any], object]] = MappingProxyType(
    {
        RetryPlanned: attrgetter("verdict", "free"),
        RetryRefused: attrgetter("verdict", "gate"),
        Hedged: type,
        HedgeRefused: attrgetter("gate"),
        FellBack: attrgetter("to", "verdict"),
        FallbackRefused: attrgetter("to", "gate"),
        CallRejected: attrgetter("policy"),
        CircuitChanged: attrgetter("at"),  # each is worth a line
        CooldownStarted: type,
        WouldHave: attrgetter("mechanism", "what"),
    }
)
"""What is a decision, and what makes two of them at one target alike."""


class _Run:
    """Decisions that are alike, and the last of them."""

    __slots__ = ("key", "last", "times")

    def __init__(self, key: object, event: Any) -> None:
        self.key = key
        self.last = event
        self.times = 1


class RecentDecisions:
    """Keeps the last of them. Words are made of them when somebody looks."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        self._growing: dict[object, _Run] = {}

    def hear(self, event: Event) -> None:
        """Take note of a decision; other events mean nothing here."""
        alike = _ALIKE.get(type(event))
        if alike is None:
            return
        key = type(event), event.target, alike(event)
        run = self._growing.get(key)
        if run is not None and event.at - run.last.at <= TOGETHER:
            run.last = event
            run.times += 1
            return
        run = self._growing[key] = _Run(key, event)
        self._runs.append(run)
        if len(self._runs) > MOST:
            self._drop(min(self._runs, key=lambda each: each.last.at))

    def kept(self) -> list[tuple[Event, int]]:
        """The last of each that are alike, and how many they were; what was last is first."""
        runs = sorted(self._runs, key=lambda run: -run.last.at)
        return [(run.last, run.times) for run in runs]

    def _drop(self, run: _Run) -> None:
        self._runs.remove(run)
        if self._growing.get(run.key) is run:
            del self._growing[run.key]


def in_words(kept: Iterable[tuple[Event, int]], now: float) -> tuple[Decision, ...]:
    """Tell them."""
    return tuple(
        Decision(
            ago=round(max(0.0, now - event.at), 1),
            name=name_of(event),
            words=words_for(event),
            times=times,
        )
        for event, times in kept
    )
