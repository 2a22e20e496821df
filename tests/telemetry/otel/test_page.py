"""The page lists the attributes of spans, and no others."""

import re
from pathlib import Path

from stormbreak.telemetry.event_text import NAMES
from stormbreak.telemetry.otel import conventions, metrics
from stormbreak.telemetry.otel.spans import SPAN_EVENTS

DOCS = Path(__file__).parents[3] / "docs"


def section(page, heading):
    return (DOCS / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


SECTION = section("telemetry.md", "OpenTelemetry") + section("events.md", "Spans")
CODE = re.compile(r"`([a-z_]+(?:\.[a-z_]+)+)`")


def test_the_page_lists_every_attribute_and_no_other():
    documented = {name for name in CODE.findall(SECTION) if not name.startswith("stormbreak.call")}
    known = {
        value
        for name, value in vars(conventions).items()
        if name.isupper() and isinstance(value, str) and not value.endswith(".")
    }
    events = {NAMES[kind] for kind in SPAN_EVENTS} | {"attempt.first_output"}

    assert documented == known - {conventions.TOKEN_TYPE} | events | {
        metrics.DURATION, metrics.FIRST_CHUNK, metrics.TOKENS,
    }  # fmt: skip
    assert f"`{conventions.CALL_LABEL}NAME`" in SECTION
