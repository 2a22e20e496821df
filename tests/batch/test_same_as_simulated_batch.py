"""A batch on sockets and the same batch in the simulator agree, since both retry a row by the same rule."""

from dataclasses import replace
from math import ceil
from typing import NamedTuple

import pytest
from batches import chat_rows

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.presets import BATCH
from stormbreak.core.retry import RetryPolicy
from stormbreak.events import CallEnded
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.scenario import Fault, Load, Provider, Scenario
from stormbreak.storm import simulate
from stormbreak.types import Verdict

LIMIT = 16
ONCE_A_ROUND = replace(BATCH, breaker=None, adaptive_rate=False, retry=RetryPolicy(max_attempts=1))
MIXED_FAULTS = (
    Fault(kind=Kind.S500, share=0.2),
    Fault(kind=Kind.RESET, share=0.1),
    Fault(kind=Kind.S429, share=0.1, retry_after=1.0),
    Fault(kind=Kind.CUT_BODY, share=0.1),
)


class Batch(NamedTuple):
    """The result of a batch: attempts per row, and the seconds until half and 99 % of the rows were answered."""

    attempts: float
    half: float
    nearly_all: float


def batch(rows, service, *faults):
    return Scenario(
        name="batch",
        provider=Provider(slots=LIMIT, service=service, variation=0.3),
        faults=faults,
        load=Load(arrival_times=(0.0,) * rows, deadline=600.0, timeout=10.0, preset="batch"),
    )


def on_sockets(run_rows, provider, policy, rows):
    events = []
    summary = run_rows(
        chat_rows(rows), provider, policy=policy, limit=LIMIT, listeners=[events.append]
    )
    began = events[0].at
    answers = sorted(
        event.at - began
        for event in events
        if isinstance(event, CallEnded) and event.verdict is Verdict.OK
    )
    return Batch(
        summary.attempts / rows, answers[ceil(0.5 * rows) - 1], answers[ceil(0.99 * rows) - 1]
    )


def assert_alike(real, scenario, policy, *, late=1.25):
    """Compare a batch on sockets with ten seeds of the simulator, within a quarter, and a factor `late` for its times."""
    limited = replace(policy, limit=FixedLimit(max_in_flight=LIMIT))
    runs = [simulate(scenario, limited, seed=seed).measures for seed in range(10)]
    simulated = [Batch(run.amplification, run.p50, run.makespan_99) for run in runs]
    for name in Batch._fields:
        values = [getattr(each, name) for each in simulated]
        beyond = 1.25 if name == "attempts" else late
        assert min(values) / 1.25 <= getattr(real, name) <= beyond * max(values), (name, values)


def test_rows_are_retried_as_often_as_in_the_simulation(run_rows, stormbreak_provider):
    scenario = batch(60, 0.1, Fault(kind=Kind.S500, share=0.15))
    real = on_sockets(run_rows, stormbreak_provider(scenario), ONCE_A_ROUND, 60)
    assert_alike(real, scenario, ONCE_A_ROUND, late=5.0)  # a busy machine is late


@pytest.mark.prove
@pytest.mark.parametrize("faults", [MIXED_FAULTS, (Fault(kind=Kind.DOWN, until=4.0),)])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_whole_batch_takes_as_long_as_in_the_simulation(
    run_rows, stormbreak_provider, faults, seed
):
    scenario = batch(300, 0.2, *faults)
    real = on_sockets(run_rows, stormbreak_provider(scenario, seed=seed), BATCH, 300)
    assert_alike(real, scenario, BATCH)
