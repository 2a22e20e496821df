"""A batch gives up attempts that take far too long, and never makes an outage worse."""

import time
from dataclasses import replace

import pytest
from batches import assert_answered, chat_rows, scenario, write

from stormbreak.batch import run
from stormbreak.batch.running import rows_in_flight, runner
from stormbreak.core import straggler
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.presets import BATCH
from stormbreak.testing import serve

ROWS = chat_rows(120)
HANGS = {"kind": "hang", "share": 0.04}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(straggler, "FLOOR", 0.4)


@pytest.fixture
def go(tmp_path, output):
    source = write(tmp_path / "in.jsonl", ROWS)

    def run_them(provider, **options):
        began = time.monotonic()
        given = {"timeout": 30.0, "concurrency": 20} | options
        return run(
            source, output=output, base_url=provider.base_url, **given
        ), time.monotonic() - began

    return run_them


def test_hanging_attempts_are_sent_again_before_their_timeout(go, monkeypatch, output):
    monkeypatch.setattr(runner, "TICK_EVERY", 0.02)
    seen = []
    with serve(scenario(HANGS, service=0.02), seed=1) as provider:
        summary, took = go(provider, on_progress=seen.append)
        hung = provider.stats()["faults"]["hang"]
        assert provider.stats()["arrivals"] == summary.attempts == len(ROWS) + hung
    assert hung >= 3
    assert took < 15.0  # without it, 30 s
    assert_answered(ROWS, output)
    assert summary.verdicts == {"ok": 120, "timeout": hung}
    assert summary.maybe_processed == summary.retries == hung
    last = [snapshot.straggling for snapshot in seen if snapshot.left and not snapshot.waiting]
    assert max(last) > 0.0  # the remaining time counts them


def test_at_most_a_tenth_of_the_rows_is_sent_twice(go, monkeypatch, output):
    """Every attempt counts as a straggler."""
    monkeypatch.setattr(straggler, "FLOOR", 0.0)
    monkeypatch.setattr(straggler, "FACTOR", 0.0)
    monkeypatch.setattr(straggler, "GROWTH", 1.0)
    with serve(scenario(service=0.1, variation=0.5), seed=1) as provider:
        summary, _ = go(provider)
        assert 0 < provider.stats()["arrivals"] - len(ROWS) <= len(ROWS) * 0.1
    assert summary.complete
    assert_answered(ROWS, output)


def test_an_outage_causes_no_extra_attempts(go):
    """No response arrives for a second, and attempts are stragglers before that."""
    silence = {"kind": "hang", "at": 0.1, "until": 1.3}
    with serve(scenario(silence, service=0.05), seed=1) as provider:
        summary, _ = go(provider, timeout=1.6)
        assert len(ROWS) < provider.stats()["arrivals"] <= len(ROWS) + 20  # in flight at once
    assert summary.complete


def test_a_policy_with_hedges_gives_up_no_stragglers(go, monkeypatch):
    ended = []
    monkeypatch.setattr(rows_in_flight.Stragglers, "give_up", lambda _: ended.append(1))
    policy = replace(BATCH, hedge=HedgePolicy(delay=0.2))
    with serve(scenario(HANGS, service=0.02), seed=1) as provider:
        go(provider, policy=policy, timeout=1.5)
    assert not ended
