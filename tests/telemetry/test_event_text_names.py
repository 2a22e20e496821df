"""Event names are stable: a change breaks the dashboards of users."""

import logging
import re
from pathlib import Path
from typing import get_args

from happenings import one_of_each

from stormbreak.events import Event
from stormbreak.telemetry import Metrics
from stormbreak.telemetry.event_metrics import FAMILIES
from stormbreak.telemetry.event_text import NAMES, name_of
from stormbreak.telemetry.gauges import GAUGES
from stormbreak.telemetry.logs import LEVELS
from stormbreak.telemetry.prometheus_multiprocess import GaugeCollector

PAGE = Path(__file__).parents[2] / "docs" / "events.md"
PROMISED = {
    "Labelled": "call.labelled",
    "Queued": "call.queued",
    "CallRejected": "call.rejected",
    "CallEnded": "call.ended",
    "CallCancelled": "call.cancelled",
    "Sent": "attempt.sent",
    "Returned": "attempt.ended",
    "Committed": "attempt.first_output",
    "Overtaken": "attempt.superseded",
    "Hedged": "hedge.sent",
    "HedgeRefused": "hedge.refused",
    "RetryPlanned": "retry.scheduled",
    "RetryRefused": "retry.refused",
    "FellBack": "fallback.started",
    "FallbackRefused": "fallback.refused",
    "CircuitChanged": "circuit.changed",
    "CooldownStarted": "cooldown.started",
    "SpendReached": "spend.threshold_reached",
    "WouldHave": "shadow.decision",
}


def test_every_event_has_a_unique_name():
    assert set(NAMES) == set(get_args(Event)) == {type(event) for event in one_of_each()}
    assert len(set(NAMES.values())) == len(NAMES)
    assert [name for name in NAMES.values() if not re.fullmatch(r"[a-z]+\.[a-z_]+", name)] == []


def test_event_names_are_unchanged():
    assert {kind.__name__: name for kind, name in NAMES.items()} == PROMISED
    assert [name_of(event) for event in one_of_each()] == [
        PROMISED[type(event).__name__] for event in one_of_each()
    ]


def table(heading):
    """The rows of the table under a heading of the page, without its header."""
    section = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1:]]


def test_the_page_lists_every_event():
    assert {row[1].strip("`"): row[0].strip("`") for row in table("Events")} == PROMISED


def test_the_page_lists_the_log_level_of_events():
    documented = {row[0].strip("`"): row[3].partition(";")[0] for row in table("Events") if row[3]}

    assert documented == {name: logging.getLevelName(level) for name, level in LEVELS.items()}


def test_the_page_lists_every_metric_with_its_labels():
    metrics = Metrics()
    kinds = {
        f"{family.name}{'_total' if family.type == 'counter' else ''}": family.type
        for family in GaugeCollector(metrics._gauges).describe()
    }
    kinds |= {
        f"stormbreak_{name}{'' if family.buckets else '_total'}": (
            "histogram" if family.buckets else "counter"
        )
        for name, family in FAMILIES.items()
    }
    documented = {row[0].strip("`"): row[1] for row in table("Metrics")}
    labels = {row[0].strip("`"): re.findall(r"`(\w+)`", row[2]) for row in table("Metrics")}

    assert documented == kinds
    assert {name: labels[name] for name in labels if labels[name]} == {
        **{
            f"stormbreak_{name}{'' if family.buckets else '_total'}": list(family.labels)
            for name, family in FAMILIES.items()
            if family.labels
        },
        **{
            f"stormbreak_{name}{'_total' if gauge.counts else ''}": [
                label for label in gauge.labels if label != "target"
            ]
            for name, gauge in GAUGES.items()
            if gauge.labels != ("target",)
        },
    }
