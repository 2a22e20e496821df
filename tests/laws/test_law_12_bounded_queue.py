"""Law 12. The queue is bounded, with priorities: a call that cannot be served within its patience and deadline
is shed at once, on arrival or at its turn, not served late. Tenants get fair shares. Interactive classes are
served newest first while the in-flight limit binds and a queue stands, not under a send rate; the others oldest
first.
"""

from hypothesis import assume, given
from hypothesis import strategies as st
from stage import OK, Spaced, Stage, policy

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.types import Priority

PRIORITIES = st.sampled_from(list(Priority))


def scene(*, slots=1, size=1000):
    return Stage(policy(limit=FixedLimit(max_in_flight=slots), queue=QueuePolicy(max_size=size)))


@given(size=st.integers(0, 5), arrivals=st.lists(PRIORITIES, max_size=20))
def test_the_queue_never_exceeds_its_size_and_keeps_the_most_urgent_calls(size, arrivals):
    stage = scene(size=size)
    stage.start()
    runs = [stage.start(priority=priority) for priority in arrivals]
    stage.settle()
    stay = sorted(run.call.priority for run in runs if run.queued)

    assert sorted(arrivals)[:size] == stay
    assert {"queue"} >= {run.ended.stopped for run in runs if run.ended}


@given(arrivals=st.lists(PRIORITIES, max_size=20))
def test_urgent_calls_go_first_and_the_oldest_among_equals(arrivals):
    stage = scene(slots=5)  # four times that many are no standing queue yet
    blocker, *_ = [stage.start() for _ in range(5)]
    runs = [stage.start(priority=priority) for priority in arrivals]
    served, current = [], blocker
    while True:
        current.step(OK)
        stage.settle()
        current = next((run for run in runs if run.sending), None)
        if current is None:
            break
        served.append(current)

    assert sorted(runs, key=lambda run: (run.call.priority, run.call.number)) == served


@given(
    arrivals=st.lists(PRIORITIES, min_size=5, max_size=30),
    slots=st.integers(1, 3),
    limit=st.sampled_from(["fixed", "automatic, binds", "automatic, does not"]),
    spaced=st.booleans(),
    too_long=st.booleans(),
)
def test_an_overlong_standing_queue_serves_the_newest_interactive_call_first(
    arrivals, slots, limit, spaced, too_long
):
    stage = scene(slots=slots)
    if limit != "fixed":
        stage = Stage(policy(limit=AutomaticLimit(max_in_flight=slots)))
    if limit == "automatic, binds":
        gate = stage.state.slots
        gate.in_flight = gate.limit
        gate.tick(stage.now, 1.1)
        gate.in_flight = 0
    if spaced:
        stage.state.admission._pacing = (Spaced(1e9),)
    width = stage.state.slots.limit
    blockers = [stage.start() for _ in range(width)]
    runs = [stage.start(priority=priority, patience=60.0) for priority in arrivals]
    stage.state.admission.service = 1e3 if too_long else 1e-3
    blockers[0].step(OK)
    stage.settle()
    (served,) = (run for run in runs if run.sending)
    first = [run for run in runs if run.call.priority == min(arrivals)]
    stands = len(arrivals) > 4 * width and limit != "automatic, does not" and not spaced
    newest = stands and too_long and min(arrivals) is Priority.INTERACTIVE

    assert served is (first[-1] if newest else first[0])


@given(
    crowd=st.integers(1, 180),
    few=st.integers(1, 20),
    priority=PRIORITIES,
)
def test_a_tenant_gets_its_share_however_many_calls_another_has(crowd, few, priority):
    stage = scene(slots=50)  # four times that many are no standing queue yet
    current, *_ = [stage.start() for _ in range(50)]
    many = [stage.start(tenant="many", priority=priority) for _ in range(crowd)]
    mine = [stage.start(tenant="few", priority=priority) for _ in range(few)]
    served = []
    while any(run.queued for run in mine):
        current.step(OK)
        stage.settle()
        current = next(run for run in many + mine if run.sending and run not in served)
        served.append(current)

    assert [run for run in served if run in mine] == mine
    assert len(served) <= 2 * few


@given(urgent=st.sampled_from([1, 3, 25]))
def test_no_priority_is_starved(urgent):
    stage = scene(slots=1)
    current = stage.start()
    crowd = [stage.start() for _ in range(urgent)]
    patient = stage.start(priority=Priority.BATCH)
    for _ in range(20):
        crowd.append(stage.start())
        current.step(OK)
        stage.settle()
        if patient.sending:
            return
        current = next(run for run in crowd if run.sending)
    raise AssertionError("twenty were served, and none of them was the patient one")


@given(
    slots=st.integers(1, 4),
    service=st.floats(0.1, 10.0),
    ahead=st.integers(0, 10),
    patience=st.floats(0.1, 30.0),
)
def test_a_call_that_cannot_be_served_in_time_is_shed_on_arrival(slots, service, ahead, patience):
    assume(ahead <= 4 * slots)  # in a standing queue the newest is served first
    stage = scene(slots=slots)
    run = stage.start()
    stage.tick(service)
    run.step(OK)
    for _ in range(slots + ahead):
        stage.start()
    mine = stage.start(patience=patience)
    wait = stage.state.admission.service * (ahead + 1) / slots
    assume(abs(wait - patience) > 1e-6)

    assume(abs(wait - patience) > 1e-6)  # rounding decides there
    assert (wait > patience) == (mine.ended is not None)
    if mine.ended:
        assert mine.ended.stopped == "shed"
        assert abs(mine.ended.retry_at - (stage.now + wait)) < 1e-6


@given(
    service=st.floats(0.5, 5.0),
    deadlines=st.lists(st.floats(1.0, 30.0), min_size=1, max_size=12),
)
def test_no_waiting_call_is_sent_without_time_for_an_answer(service, deadlines):
    stage = scene()
    current = stage.start()
    runs = [stage.start(within=within) for within in deadlines]
    while current is not None:
        stage.pass_time(service)
        current.step(OK)
        stage.settle()
        current = next((run for run in runs if run.sending), None)
        if current is not None and stage.now - stage.runs[0].since >= 1.0:
            left = current.call.deadline_at - stage.now
            assert left >= 1.75 * stage.state.admission.service - 1e-6
    stage.pass_time(60.0)

    assert {"shed", None} >= {run.ended.stopped for run in runs}


@given(st.lists(st.floats(0.1, 30.0), min_size=1, max_size=12))
def test_a_call_is_shed_when_its_patience_ends(patiences):
    stage = scene()
    stage.start()
    runs = [stage.start(patience=patience) for patience in patiences]
    stage.pass_time(40.0)

    for run, patience in zip(runs, patiences, strict=True):
        assert run.ended.stopped == "shed"
        assert abs(run.ended.waited - patience) < 1e-6
    assert stage.state.admission.queued == 0
