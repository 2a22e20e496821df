"""Names are a promise: who changes one here breaks the dashboards of others."""

import re
from pathlib import Path
from typing import get_args

from happenings import one_of_each

from stormbreak.events import Event
from stormbreak.telemetry.names import NAMES, name_of

PAGE = Path(__file__).parents[2] / "docs" / "telemetry.md"
PROMISED = {
    "Labelled": "call.labelled",
    "Queued": "call.queued",
    "CallRejected": "call.rejected",
    "CallEnded": "call.ended",
    "Sent": "attempt.sent",
    "Returned": "attempt.returned",
    "Committed": "attempt.committed",
    "Overtaken": "attempt.overtaken",
    "Hedged": "hedge.sent",
    "HedgeRefused": "hedge.refused",
    "RetryPlanned": "retry.planned",
    "RetryRefused": "retry.refused",
    "FellBack": "fallback.taken",
    "FallbackRefused": "fallback.refused",
    "CircuitChanged": "circuit.changed",
    "CooldownStarted": "cooldown.started",
    "WouldHave": "shadow.would_have",
}


def test_every_event_has_a_name_of_its_own():
    assert set(NAMES) == set(get_args(Event)) == {type(event) for event in one_of_each()}
    assert len(set(NAMES.values())) == len(NAMES)
    assert [name for name in NAMES.values() if not re.fullmatch(r"[a-z]+\.[a-z_]+", name)] == []


def test_names_are_as_promised():
    assert {kind.__name__: name for kind, name in NAMES.items()} == PROMISED
    assert [name_of(event) for event in one_of_each()] == [
        PROMISED[type(event).__name__] for event in one_of_each()
    ]
