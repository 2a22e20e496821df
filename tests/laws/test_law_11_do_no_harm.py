"""Law 11. Without evidence of congestion the automatic limit does not bind, up to its ceiling: a calm burst from
idle is sent at once. With evidence (answers are late, or nothing is answered, or a queue stands) it is a little above what was just
proven to be served, and fades when the evidence ends. Failures beside answers that are on time do not shrink it. It is at least 1 and can
always grow again.
"""

from hypothesis import given
from hypothesis import strategies as st
from stage import OK, SERVER_ERROR, TIMEOUT, Stage, policy

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import Backoff
from stormbreak.core.retry import RetryPolicy

ONCE = RetryPolicy(max_attempts=1, backoff=Backoff(kind="constant", initial_delay=0.0))


def scene(ceiling=256):
    return Stage(policy(limit=AutomaticLimit(max_in_flight=ceiling), retry=ONCE))


@given(burst=st.integers(1, 300), ceiling=st.integers(1, 300))
def test_a_burst_from_idle_is_sent_at_once(burst, ceiling):
    stage = scene(ceiling)
    runs = [stage.start() for _ in range(burst)]

    assert sum(run.sending for run in runs) == min(burst, ceiling)


@given(took=st.lists(st.floats(0.1, 120.0), min_size=1, max_size=100))
def test_long_and_short_answers_of_one_burst_are_no_congestion(took):
    stage = scene()
    runs = [stage.start() for _ in took]
    began = stage.now
    for span, run in sorted(zip(took, runs, strict=True), key=lambda pair: pair[0]):
        stage.now = began + span
        run.step(OK)

    assert stage.state.slots.limit >= 256


@given(
    rows=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 8)), min_size=1, max_size=40),
    failure=st.sampled_from([SERVER_ERROR, TIMEOUT]),
)
def test_failures_beside_answers_on_time_do_not_shrink_the_limit(rows, failure):
    stage = scene()
    for failures, answers in rows:
        for outcome in [failure] * failures + [OK] * answers:
            stage.start().step(outcome)
            stage.tick(0.1)
            assert stage.state.slots.limit >= 256


@given(
    failures=st.integers(8, 100),
    failure=st.sampled_from([SERVER_ERROR, TIMEOUT]),
    silence=st.floats(0.0, 200.0),
)
def test_the_limit_of_a_dead_target_is_one_and_grows_back_in_silence(failures, failure, silence):
    stage = scene()
    for _ in range(failures):
        stage.start().step(failure)
    assert stage.state.slots.limit == 1  # nothing was proven
    stage.tick(silence)
    slots = stage.state.slots
    slots.tick(stage.now, 0.0)
    assert slots.limit >= 1
    assert (slots.limit >= 256) == (silence >= 75.0)
    assert slots.limit == 1 or silence >= 5.0
    in_silence = slots.limit
    stage.start().step(OK)

    assert slots.limit >= in_silence
    assert slots.limit <= max(in_silence, 5) or silence >= 71.0  # one answer proves no more
    assert slots.limit <= 4 or silence > 5.0
    stage.tick(75.0)
    slots.tick(stage.now, 0.0)
    assert slots.limit >= 256  # it no longer binds


def test_the_limit_grows_again_with_what_is_served():
    stage = scene()
    for _ in range(8):  # from here on a queue stands
        stage.start().step(SERVER_ERROR)
    limits = []
    for rate in [10] * 60 + [2] * 60 + [10] * 60:
        runs = [run for run in stage.runs if run.sending]
        for run in runs[:rate]:
            run.step(OK)
        stage.settle()
        for _ in range(60 - sum(not run.over for run in stage.runs)):
            stage.start()
        stage.runs = [run for run in stage.runs if not run.over]
        stage.tick(1.0)
        limits.append(stage.state.slots.limit)

    assert min(limits) >= 1
    assert limits[59] > 10  # it grew again


def test_an_answer_releases_a_waiting_call():
    stage = scene()
    for _ in range(8):
        stage.start().step(SERVER_ERROR)
    hung = stage.start()
    late = stage.start()
    assert late.queued
    stage.pass_time(0.5)
    assert late.queued
    hung.step(OK)
    stage.settle()

    assert late.sending


def test_time_alone_releases_a_waiting_call():
    """All attempts in the limit hang; only time passes."""
    stage = scene()
    for _ in range(3):
        served = [stage.start() for _ in range(60)]
        stage.tick(1.0)
        for run in served:
            run.step(OK)
    while stage.state.slots.limit >= 256:
        stage.start().step(SERVER_ERROR)
    stage.tick(5.5)  # the hold is over, and the growth has begun
    while not (late := stage.start()).queued:
        pass
    stage.pass_time(0.9)

    assert late.sending
