"""Log decisions with the standard logging, below the logger "stormbreak". Nothing is logged unless this is attached.

In a storm there are many decisions. For one kind of event at one target, at most one line is written per second, with
the number of suppressed lines. Circuit changes are always logged.

Writing a line may block. If that matters, give the logger a `logging.handlers.QueueHandler`.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stormbreak.core.breaker_policy import State
from stormbreak.core.engine import Engine
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.escape import LABEL, escape_target, shown
from stormbreak.events import CircuitChanged, Event, RetryRefused
from stormbreak.telemetry.event_text import describe, name_of
from stormbreak.telemetry.labels import MAX_TARGETS, Targets

INTERVAL = 1.0  # seconds between two lines of one kind at one target

LEVELS: Mapping[str, int] = {
    "retry.scheduled": logging.INFO,
    "retry.refused": logging.INFO,  # but WARNING if the budget refused
    "hedge.sent": logging.INFO,
    "hedge.refused": logging.DEBUG,
    "fallback.started": logging.INFO,
    "fallback.refused": logging.WARNING,
    "call.rejected": logging.WARNING,
    "circuit.changed": logging.INFO,  # but WARNING if it opens
    "cooldown.started": logging.INFO,
    "spend.threshold_reached": logging.WARNING,
    "shadow.decision": logging.INFO,
}
"""Levels by event name. Other events are not logged."""

_FIELDS = (
    "call", "attempt", "verdict", "gate", "policy", "free", "before", "after", "mechanism", "what",
)  # fmt: skip
_OPENED = (State.OPEN.value, State.ISOLATED.value)


@dataclass(slots=True, eq=False)
class _Burst:
    """The events since the last line: the number of suppressed ones, and the last of them."""

    until: float
    suppressed: int = 0
    last: Event | None = None


class Logs:
    """A listener that logs. It serves many engines of one clock, from any thread.

    Args:
        every: seconds in which one kind of event at one target has at most one line; 0 logs every event.
        max_targets: targets that are counted separately; later ones share their lines.
    """

    def __init__(self, *, every: float = INTERVAL, max_targets: int = MAX_TARGETS) -> None:
        self._every = every
        self._targets = Targets(max_targets)
        self._lock = new_lock()
        self._begin()
        reset_in_child(self._begin)

    def _begin(self) -> None:
        self._bursts: dict[tuple[str, str], _Burst] = {}  # by name and target
        self._due = float("inf")  # when the first burst with a suppressed event ends

    def __call__(self, event: Event) -> None:
        """Log an event, or count it as suppressed."""
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
        if isinstance(event, CircuitChanged) or self._is_due(event, name):
            _write(logger, level, event, name)

    def unwatch(self, _: Engine) -> None:
        """Log suppressed events: there may be no later event that does."""
        self.flush()

    def flush(self, now: float = float("inf")) -> None:
        """Log events that were suppressed until `now`. The first event a second later does this too."""
        with self._lock:
            bursts = list(self._bursts.items())  # a finalizer may log in the middle of the loop
            ended = [(kind, burst) for kind, burst in bursts if now >= burst.until]
            for kind, _ in ended:
                self._bursts.pop(kind, None)
            self._due = min(
                (each.until for _, each in bursts if now < each.until and each.suppressed),
                default=float("inf"),
            )
        for (name, _), burst in ended:
            if burst.last is not None:
                level = _level(burst.last, LEVELS[name])
                _write(_logger(name), level, burst.last, name, burst.suppressed)

    def _is_due(self, event: Event, name: str) -> bool:
        """Whether a line may be written now; if not, count the event as suppressed."""
        kind = name, self._targets.label(event.target)
        with self._lock:
            burst = self._bursts.get(kind)
            if burst is None or event.at >= burst.until:
                self._bursts[kind] = _Burst(event.at + self._every)
                return True
            burst.suppressed += 1
            burst.last = event
            self._due = min(self._due, burst.until)
            return False


def _logger(name: str) -> logging.Logger:
    return logging.getLogger(f"stormbreak.{name.partition('.')[0]}")


def _level(event: Event, level: int) -> int:
    opened = isinstance(event, CircuitChanged) and event.after in _OPENED
    if opened or (isinstance(event, RetryRefused) and event.gate == "budget"):
        return logging.WARNING
    return level


def _write(
    logger: logging.Logger, level: int, event: Event, name: str, suppressed: int = 0
) -> None:
    line, fields = describe(event), _fields(event, name)
    if suppressed:
        line += f" (the last of {suppressed} suppressed lines)"
        fields["stormbreak_suppressed"] = suppressed
    logger.log(level, "%s", line, extra=fields)


def _fields(event: Event, name: str) -> dict[str, Any]:
    """The fields of the log record, for structured formatters."""
    fields: dict[str, Any] = {
        "stormbreak_event": name,
        "stormbreak_target": str(escape_target(event.target)),
    }
    for field in _FIELDS:
        value = getattr(event, field, None)
        if value is not None:
            fields[f"stormbreak_{field}"] = str(value) if field == "verdict" else value
    to, until = getattr(event, "to", None), getattr(event, "until", None)
    if to is not None:
        fields["stormbreak_to"] = shown(to, LABEL)
    if until is not None:
        fields["stormbreak_seconds"] = max(0.0, until - event.at)
    return fields
