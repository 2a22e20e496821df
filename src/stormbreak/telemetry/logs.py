"""Decisions as lines of the standard logging, under "stormbreak": nothing is logged unless somebody attaches this.

There is a line for every retry, circuit transition, rejected call, cooldown, fallback and hedge. In a storm they are many:
of one kind at one target at most one line is written each second, and it says how many were left out. That much is
bounded, however many calls there are; circuits always have their lines.

Writing a line may block. Where that matters, give the logger a `logging.handlers.QueueHandler`.
"""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from stormbreak.core.circuit import State
from stormbreak.core.engine import Engine
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.escape import tame, tamed
from stormbreak.events import CircuitChanged, Event, RetryRefused
from stormbreak.telemetry.event_text import name_of, words_for
from stormbreak.telemetry.labels import MOST_TARGETS, Targets

EVERY = 1.0  # seconds between two lines of one kind at one target

LEVELS: Mapping[str, int] = MappingProxyType(
    {
        "retry.planned": logging.INFO,
        "retry.refused": logging.INFO,  # but WARNING where the budget refused
        "hedge.sent": logging.INFO,
        "hedge.refused": logging.DEBUG,
        "fallback.taken": logging.INFO,
        "fallback.refused": logging.WARNING,
        "call.rejected": logging.WARNING,
        "circuit.changed": logging.INFO,  # but WARNING where it opens
        "cooldown.started": logging.INFO,
        "spend.reached": logging.WARNING,
        "shadow.would_have": logging.INFO,
    }
)
"""By the name of the event; others have no line."""

_FIELDS = (
    "call", "attempt", "verdict", "gate", "policy", "free", "before", "after", "mechanism", "what",
)  # fmt: skip
_OPENED = (State.OPEN.value, State.ISOLATED.value)


class _Kind(NamedTuple):
    name: str
    target: str


class _Burst:
    """Since a line was written: how many were left out, and the last of them."""

    __slots__ = ("last", "left_out", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.left_out = 0
        self.last: Event | None = None


class Logs:
    """A listener that writes lines. It may be attached to many engines, of one clock, and be called from any thread.

    Args:
        every: seconds in which one kind of event at one target has at most one line; 0: every event has its line.
        most_targets: distinct targets of which lines are counted apart; those that come later share theirs.
    """

    def __init__(self, *, every: float = EVERY, most_targets: int = MOST_TARGETS) -> None:
        self._every = every
        self._targets = Targets(most_targets)
        self._lock = new_lock()
        self._begin()
        reset_in_child(self._begin)

    def _begin(self) -> None:
        self._spells: dict[_Kind, _Burst] = {}
        self._due = float("inf")  # when the first of those that left something out is over

    def __call__(self, event: Event) -> None:
        """Write a line, if this kind of event has one and it is time for it."""
        if event.at >= self._due:
            self.flush(event.at)
        name = name_of(event)
        level = LEVELS.get(name)
        if level is None:
            return
        level = _level(event, level)
        logger = _logger(name)
        if not logger.isEnabledFor(level):
            return
        if isinstance(event, CircuitChanged) or self._may(event, name):
            _write(logger, level, event, name)

    def unwatch(self, _: Engine) -> None:
        """Tell what was left out: there may be no further event to do so."""
        self.flush()

    def flush(self, now: float = float("inf")) -> None:
        """Tell what was left out of the lines so far; by itself that is told with the first event a second later."""
        with self._lock:
            spells = list(self._spells.items())
            over = [(kind, one) for kind, one in spells if now >= one.until]
            for kind, _ in over:
                self._spells.pop(kind, None)
            self._due = min(
                (one.until for _, one in spells if now < one.until and one.left_out),
                default=float("inf"),
            )
        for kind, spell in over:
            if spell.last is not None:
                level = _level(spell.last, LEVELS[kind.name])
                _write(_logger(kind.name), level, spell.last, kind.name, spell.left_out)

    def _may(self, event: Event, name: str) -> bool:
        """Whether it is time for a line; if not, it is counted."""
        kind = _Kind(name, self._targets.label(event.target))
        with self._lock:
            spell = self._spells.get(kind)
            if spell is None or event.at >= spell.until:
                self._spells[kind] = _Burst(event.at + self._every)
                return True
            spell.left_out += 1
            spell.last = event
            self._due = min(self._due, spell.until)
            return False


def _logger(name: str) -> logging.Logger:
    return logging.getLogger(f"stormbreak.{name.partition('.')[0]}")


def _level(event: Event, level: int) -> int:
    if isinstance(event, CircuitChanged) and event.after in _OPENED:
        return logging.WARNING
    if isinstance(event, RetryRefused) and event.gate == "budget":
        return logging.WARNING
    return level


def _write(logger: logging.Logger, level: int, event: Event, name: str, left_out: int = 0) -> None:
    fields = _fields(event, name)
    if left_out:
        line = f"{words_for(event)} ({left_out} such line(s) left out, this is the last)"
        fields["stormbreak_left_out"] = left_out
    else:
        line = words_for(event)
    logger.log(level, "%s", line, extra=fields)


def _fields(event: Event, name: str) -> dict[str, Any]:
    """What a formatter for machines finds on the record."""
    fields: dict[str, Any] = {
        "stormbreak_event": name,
        "stormbreak_target": str(tamed(event.target)),
    }
    for field in _FIELDS:
        value = getattr(event, field, None)
        if value is not None:
            fields[f"stormbreak_{field}"] = str(value) if field == "verdict" else value
    to, until = getattr(event, "to", None), getattr(event, "until", None)
    if to is not None:
        fields["stormbreak_to"] = tame(to)
    if until is not None:
        fields["stormbreak_seconds"] = max(0.0, until - event.at)
    return fields
