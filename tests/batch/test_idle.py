"""Why nothing of a run is in flight, as it is told while the run is at work."""

import re
from dataclasses import replace

import pytest
from batches import chat_rows, scenario

from stormbreak.batch.view import View
from stormbreak.core.circuit import BreakerPolicy
from stormbreak.core.presets import BATCH
from stormbreak.core.trip import ConsecutiveFailures

pytestmark = pytest.mark.usefixtures("no_words_about_providers")

TRIPS_SOON = BreakerPolicy(trip=ConsecutiveFailures(threshold=3), open_for=1.0)


@pytest.fixture
def told(run_rows, stormbreak_provider):
    """Everything that is said of why a run is idle."""

    def run(trouble, *, rows=60, **within):
        seen = []

        def look(runner):
            seen.append(View.of(runner).idle)

        provider = stormbreak_provider(scenario(*trouble, service=0.05))
        summary = run_rows(chat_rows(rows), provider, tick=look, limit=8, within=within)
        assert summary.complete
        assert seen[-1] == ""
        return "\n".join(seen)

    return run


def test_a_pause_that_was_asked_for(told):
    said = told([{"kind": "429", "retry_after": 1, "until": 0.5}])
    assert re.search(
        r"^a pause was asked for after throttled \(429\), [12] s left$", said, re.MULTILINE
    )


def test_an_open_circuit(told):
    said = told([{"kind": "529", "at": 0.2, "until": 0.5}], breaker=TRIPS_SOON)
    assert "the circuit is open after overloaded (529)" in said


def test_rows_that_come_back(told):
    said = told([{"kind": "500", "at": 0.2, "until": 1.0}], breaker=None)
    assert re.search(r"^\d+ rows? to be sent again after server error \(500\)", said, re.MULTILINE)


def test_a_limit_of_ones_own(told):
    said = told([], rows=3, quota=replace(BATCH.quota, rpm=60.0))
    assert "requests or tokens per minute are used up" in said
    assert "after" not in said


def test_a_calm_run_is_never_idle(told):
    assert told([]).strip() == ""
