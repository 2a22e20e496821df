"""Law 10. While a circuit is open, a `fail_fast` call fails at once with the time to retry; a patient
one waits, no longer than it may. The presets wait, that of the article fails fast.
"""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from stage import OK, SERVER_ERROR, TARGET, Stage, policy
from table_test import table_test

from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.presets import ARTICLE, BATCH, INTERACTIVE, for_batch
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.errors import CircuitOpenError, error_for

ONE = BreakerPolicy(
    trip=ConsecutiveFailures(failure_threshold=1),
    open_duration=20.0,
    open_duration_jitter=0.0,
    probes=1,
    max_concurrent_probes=1,
    probe_lease=60,
)


def message_of(ended):
    return str(error_for(TARGET, ended))


def open_circuit(**changes):
    stage = Stage(policy(breaker=ONE, **changes))
    stage.fail_until_open()
    return stage


@given(after=st.floats(0.0, 19.99))
def test_a_fail_fast_call_fails_at_once_with_the_time_to_retry(after):
    stage = open_circuit()
    comes_back_at = stage.now + 20.0
    stage.pass_time(after)
    ended = stage.start().ended

    assert (ended.attempts, ended.waited) == (0, 0.0)
    assert (ended.stopped, ended.retry_at) == ("breaker", comes_back_at)


def test_the_error_names_the_open_circuit():
    ended = open_circuit().start().ended
    error = error_for(TARGET, ended)

    assert isinstance(error, CircuitOpenError)
    assert str(error) == "acme/large: the circuit is open"
    assert error.retry_at == 120.0


@given(crowd=st.integers(1, 20))
def test_a_patient_call_waits_until_the_circuit_admits_it(crowd):
    stage = open_circuit()
    runs = [stage.start(fail_fast=False) for _ in range(crowd)]
    stage.pass_time(19.9)
    assert [True] * crowd == [run.queued for run in runs]
    stage.pass_time(0.2)
    assert [run.sending for run in runs] == [True] + [False] * (crowd - 1)
    runs[0].step(OK)
    stage.pass_time(2.0)
    assert [True] * (crowd - 1) == [run.sending for run in runs[1:]]


def test_a_queued_fail_fast_call_fails_when_the_circuit_opens():
    stage = Stage(policy(breaker=ONE, limit=FixedLimit(max_in_flight=1)))
    blocker, impatient, patient = stage.start(), stage.start(), stage.start(fail_fast=False)
    blocker.step(SERVER_ERROR)
    stage.settle()

    assert (impatient.ended.stopped, impatient.ended.retry_at) == ("breaker", 120.0)
    assert patient.queued


def test_a_retry_fails_fast_and_reports_the_failure_of_its_attempt():
    stage = Stage(policy(breaker=ONE))
    run = stage.start().step(SERVER_ERROR)
    stage.settle()

    assert run.ended.outcome == SERVER_ERROR
    assert (run.ended.stopped, run.ended.retry_at) == ("breaker", 120.0)


def test_half_open_without_a_free_probe_fails_fast():
    stage = open_circuit()
    stage.pass_time(20.0)
    probe = stage.start()

    assert probe.sending
    refused = stage.start().ended
    assert refused.retry_at == stage.now + 1.0  # not the end of the lease
    assert message_of(refused) == "acme/large: the circuit is half-open"
    assert stage.start(fail_fast=False).queued


def test_an_isolated_circuit_fails_fast_without_a_time_to_retry():
    stage = open_circuit()
    stage.state.isolate(stage.now)
    ended = stage.start().ended

    assert (ended.stopped, ended.retry_at) == ("breaker", None)
    assert message_of(ended) == "acme/large: the circuit is isolated"
    assert stage.start(fail_fast=False).queued


def test_a_patient_call_waits_no_longer_than_it_may():
    stage = open_circuit()
    ended = stage.start(fail_fast=False, within=15.0).ended

    assert (ended.stopped, ended.retry_at) == ("breaker", 120.0)
    assert stage.state.breaker.state is State.OPEN
    assert message_of(ended) == "acme/large: the call may not wait that long: the circuit is open"


def test_an_expired_patient_call_names_the_state_of_the_circuit():
    stage = open_circuit()
    stage.pass_time(20.0)
    assert stage.start().sending  # the only probe
    patient = stage.start(fail_fast=False, within=15.0)
    stage.pass_time(15.0)
    assert (
        message_of(patient.ended)
        == "acme/large: could not be served in time: the circuit is half-open"
    )
    stage.state.isolate(stage.now)
    patient = stage.start(fail_fast=False, within=15.0)
    stage.pass_time(15.0)
    assert (
        message_of(patient.ended)
        == "acme/large: could not be served in time: the circuit is isolated"
    )


def test_a_patient_call_waits_for_a_probe_with_a_lease_beyond_its_deadline():
    """The lease is only the longest time that a probe may take."""
    stage = open_circuit()
    stage.pass_time(20.0)
    probe = stage.start()
    patient = stage.start(fail_fast=False, within=15.0)
    assert patient.queued
    stage.tick(1.0)
    probe.step(OK)
    stage.settle()

    assert patient.sending


def test_the_time_to_retry_is_the_expected_answer_of_the_probe():
    stage = open_circuit()
    stage.pass_time(20.0)
    assert stage.start().sending
    assert stage.start().ended.retry_at == stage.now + 1.0
    stage.state.admission.service = 3.0

    assert stage.start().ended.retry_at == stage.now + 3.0


def test_a_call_that_waits_for_a_slot_fails_when_its_circuit_is_isolated():
    stage = Stage(policy(breaker=ONE, limit=FixedLimit(max_in_flight=1)))
    stage.start()
    impatient = stage.start()
    stage.state.isolate(stage.now)
    stage.settle()
    assert message_of(impatient.ended) == "acme/large: the circuit is isolated"


def test_an_expired_trial_is_reported_as_open():
    stage = Stage(policy(breaker=replace(ONE, max_half_open_duration=30.0, probes=2)))
    stage.fail_until_open()
    stage.pass_time(20.0)
    assert stage.start().sending
    stage.pass_time(30.0)
    assert stage.state.breaker.state is State.HALF_OPEN
    assert message_of(stage.start().ended) == "acme/large: the circuit is open"


@table_test(
    ("preset", "fails_fast"),
    [(INTERACTIVE, False), (BATCH, False), (ARTICLE, True), (for_batch(ARTICLE), False)],
)
def test_only_the_article_preset_fails_fast(preset, fails_fast):
    assert fails_fast == preset.fail_fast


def test_an_expired_wait_for_an_isolated_circuit_raises_circuit_open_error():
    stage = Stage(policy(breaker=ONE))
    stage.state.isolate(stage.now)
    run = stage.start(fail_fast=False, patience=20.0)
    stage.pass_time(20.1)
    error = error_for(TARGET, run.ended)

    assert isinstance(error, CircuitOpenError)
    assert error.retry_at is None
