"""Calls that are under way, in plain values: what each of them waits for. No key, no prompt."""

from math import inf
from typing import Any

from stormbreak.core.flow import Ask, Command, DeliverStream, Race, Send, Wait, WaitFor
from stormbreak.types import Call


def shown(call: Call, command: Command, now: float) -> dict[str, Any]:
    """One of them; times are seconds from `now`, None where there is no bound."""
    target = call.target
    if isinstance(command, WaitFor):
        target = command.ticket.call.target
    elif isinstance(command, Send):
        target = command.target
    elif isinstance(command, Race):
        target = command.sends[0].target
    return {
        "call": call.number,
        "target": str(target),
        "priority": call.priority.name.lower(),
        "tenant": call.tenant,
        "labels": dict(call.labels),
        "deadline": _left(call.deadline_at, now),
        "command": _NAMES[type(command)],
        **_more(command, now),
    }


_NAMES = {
    Wait: "wait", WaitFor: "wait_for", Send: "send", Race: "race", DeliverStream: "deliver", Ask: "ask",
}  # fmt: skip


def _more(command: Command, now: float) -> dict[str, Any]:
    if isinstance(command, Send):
        return {"attempt": command.attempt, "timeout": command.timeout}
    if isinstance(command, Race):
        under_way = [send.attempt for send in command.sends]
        return {"under_way": under_way, "until": _left(command.until, now)}
    if isinstance(command, Ask):
        return {"source": command.step.source, "until": _left(command.until, now)}
    if isinstance(command, WaitFor):
        ticket = command.ticket
        return {"until": _left(ticket.expires_at, now), "waited": max(0.0, now - ticket.queued_at)}
    if isinstance(command, DeliverStream):
        return {"attempts": command.attempts, "until": _left(command.until, now)}
    return {"until": _left(command.until, now)}


def _left(until: float | None, now: float) -> float | None:
    return None if until is None or until == inf else max(0.0, until - now)
