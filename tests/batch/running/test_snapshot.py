"""The snapshot of a run, and the reason why a run is slow, against a provider on a socket."""

import io
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from batches import chat_rows, scenario
from table_test import table_test

from stormbreak.batch.running.rows_in_flight import RowCall, RowCalls
from stormbreak.batch.running.runner import End, Runner
from stormbreak.batch.running.snapshot import worst_circuit
from stormbreak.batch.running.stats import RunStats
from stormbreak.cli.batch import progress
from stormbreak.cli.batch.progress import Lines
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.fallback_policy import Place, ToTargets
from stormbreak.core.presets import BATCH
from stormbreak.core.row_schedule import RowAttempt
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.cost.accounts import Cost

pytestmark = pytest.mark.usefixtures("no_words_about_providers")

TRIPS_SOON = BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=3), open_duration=1.0)
RUNS = 5
TROUBLE_503 = {"kind": "503", "requests": [*range(9, 17)]}


@pytest.fixture
def printed(run_rows, stormbreak_provider, monkeypatch, tmp_path):
    """Run with progress lines; return all that they print, one line for each update."""
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)

    def run(trouble, *, rows=60, limit=8, **within):
        for left in tmp_path.iterdir():  # by an earlier run
            left.unlink()
        stream = io.StringIO()
        provider = stormbreak_provider(scenario(*trouble, service=0.05))
        lines = Lines(stream)
        summary = run_rows(chat_rows(rows), provider, tick=lines.tick, limit=limit, within=within)
        assert summary.complete
        output = stream.getvalue()
        assert "; " not in output.splitlines()[-1], "a run that has ended is not slow"
        return output

    return run


@pytest.fixture
def prints(printed):
    """Whether a run prints the pattern. If the machine pauses while it is slow, the next one does."""

    def prints(pattern, trouble, **options):
        return any(
            re.search(pattern, printed(trouble, **options), re.MULTILINE) for _ in range(RUNS)
        )

    return prints


def test_a_slow_run_names_the_pause_that_the_provider_requests(prints):
    trouble = [{"kind": "429", "retry_after": 1, "requests": [*range(1, 9)]}]

    assert prints(r"; waiting: provider asked for 1 s, next calls in [12] s$", trouble)


def test_a_slow_run_names_the_open_circuit_and_its_last_failure(prints):
    pattern = r"; circuit open, next probe in [12] s; last failure: overloaded \(503\)$"

    assert prints(pattern, [TROUBLE_503], breaker=TRIPS_SOON)


def test_a_slow_run_counts_the_rows_to_retry_and_their_error(prints):
    """Eleven of sixty rows are answered at their fifth attempt."""
    often = {"kind": "500", "match": "document 5", "first_attempts": 4}
    pattern = r"; \d+ rows? to be sent again after server error \(500\)"

    assert prints(pattern, [often], breaker=None, retry_budget=None)


def test_a_slow_run_names_an_empty_retry_budget(prints):
    paid = replace(BATCH.retry_budget, ratio=0.0, no_free_retries=True)
    trouble = [{"kind": "500", "requests": [*range(5, 31)]}]

    assert prints(r"; retry budget empty$", trouble, breaker=None, retry_budget=paid)


def test_a_slow_run_names_its_own_request_rate_limit(prints):
    slow = replace(BATCH.rate_limit, rpm=60.0)

    assert prints(r"; waiting for requests per minute: 1 s$", [], rows=3, rate_limit=slow)


def test_a_calm_run_names_no_reason(printed):
    """A run in which the machine pauses is not calm."""
    assert any("; " not in printed([]) for _ in range(RUNS))
    assert any("; " not in printed([], limit=1, rows=10) for _ in range(RUNS))


def test_an_open_circuit_with_a_fallback_is_no_reason_for_a_slow_run(printed, stormbreak_provider):
    well = stormbreak_provider("calm", speed=50)
    rule = ToTargets(targets=(Place(base_url=well.base_url, api_key_env=None),))
    output = printed([TROUBLE_503], rows=300, breaker=TRIPS_SOON, fallback=(rule,))
    while_open = [line for line in output.splitlines() if "circuit open" in line]

    assert [line for line in while_open if " 0 in flight" not in line]
    assert not [line for line in while_open if "; " in line and " 0 in flight" not in line]


# ------------------------------------------------------------ figures


def a_target(circuit="closed", cooldown=0.0, in_flight=3, limit=40):
    return {"circuit": circuit, "cooldown": cooldown, "in_flight": in_flight, "limit": limit}


def snapshot_with(*targets, width=50):
    """A snapshot of a run with these targets, ten rows under way and five that wait for a retry."""
    found = {"targets": {str(number): each for number, each in enumerate(targets)}}
    runner = Runner.__new__(Runner)
    calls = RowCalls(SimpleNamespace(policy=BATCH))
    calls.update((number, RowCall(RowAttempt(index=number))) for number in range(10))
    vars(runner).update(
        client=SimpleNamespace(snapshot=lambda *, pending: found),
        rows=range(100),
        width=width,
        schedule=SimpleNamespace(waiting=5),
        journal=SimpleNamespace(done=7, failed=3, again=1),
        stats=RunStats(input_tokens=11, output_tokens=13),
        spend=SimpleNamespace(cost=Cost(), limit=None),
        _calls=calls,
        _end=End.INTERRUPTED,
        _interrupts=1,
    )
    return runner._take_snapshot()


def test_a_snapshot_sums_targets_and_counts_rows_not_in_flight_as_waiting():
    seen = snapshot_with(
        a_target("open"), a_target("half_open", cooldown=1.0), a_target(), width=500
    )

    assert (seen.in_flight, seen.limit, seen.width) == (9, 120, 500)
    assert seen.waiting == 10 - 9 + 5
    assert (seen.circuit, seen.open_circuits, seen.cooling) == ("open", 2, 1)
    assert (seen.total, seen.done, seen.failed, seen.left) == (100, 7, 2, 91)
    assert (seen.input_tokens, seen.output_tokens) == (11, 13)
    assert (seen.stopping, seen.interrupted, seen.slow) == (True, True, "")


def test_the_limit_of_a_snapshot_never_exceeds_the_width_of_the_run():
    assert snapshot_with(a_target(), a_target(), width=50).limit == 50
    assert snapshot_with(width=50).limit == 50  # before the first request


@table_test(
    ("states", "circuit"),
    [
        (set(), "closed"),
        ({None}, "closed"),
        ({"closed", "open"}, "open"),
        ({"closed", "half_open"}, "half-open"),
    ],
)
def test_the_circuit_of_a_snapshot_is_the_worst_of_its_targets(states, circuit):
    assert worst_circuit(states) == circuit
