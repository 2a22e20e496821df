"""When a half-open period ended before the lease of a probe, the next probe waited for the lease: 67 instead of 22."""

from stage import Stage, policy
from table_test import table_test

from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.trip import ConsecutiveFailures


def half_open(lease=60.0):
    """The half-open period begins at 7 with one hanging probe and ends at 17; then the circuit is open until 22."""
    breaker = BreakerPolicy(
        trip=ConsecutiveFailures(failure_threshold=1), open_duration=5.0, open_duration_jitter=0.0, probes=1,
        probe_lease=lease, max_half_open_duration=10.0,
    )  # fmt: skip
    stage = Stage(policy(breaker=breaker), now=2.0)
    stage.fail_until_open()
    stage.now = 7.0
    assert stage.start().sending
    return stage


def test_a_waiting_call_is_sent_at_the_end_of_the_next_open_period():
    stage = half_open()
    waits = stage.start(fail_fast=False)
    stage.pass_time(14.9)
    assert waits.queued
    stage.pass_time(0.2)
    assert waits.sending


def test_a_call_with_enough_patience_is_queued():
    assert half_open().start(fail_fast=False, patience=40.0).queued


@table_test(("lease", "retry_at"), [(60.0, 22.0), (14.0, 21.0), (6.0, 13.0)])
def test_a_rejected_call_gets_the_earlier_retry_time(lease, retry_at):
    stage = half_open(lease)
    # Otherwise the probe is expected earlier than both.
    stage.state.admission.service = 60.0  # seconds

    assert stage.start(fail_fast=True).ended.retry_at == retry_at
