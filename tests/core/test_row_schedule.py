from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.core.row_schedule import (
    ATTEMPTS,
    PROBE_ROWS,
    Final,
    Reschedule,
    RowAttempt,
    Schedule,
)
from stormbreak.types import CACHE, FALLBACK, TREATMENTS, CallResult, Outcome, Repair, Verdict

FINAL = [Verdict.AUTH, Verdict.NOT_FOUND, Verdict.BILLING, Verdict.REDIRECTED]
TRANSIENT = [verdict for verdict, treatment in TREATMENTS.items() if treatment.retry]


def ended(verdict=Verdict.OK, *, attempts=1, status=200, **more):
    outcome = Outcome(verdict, own_deadline=more.pop("own_deadline", False), status=status)
    return CallResult(outcome, attempts=attempts, **more)


def schedule(rows, **options):
    return Schedule(iter(range(rows)), **options)


def proven(rows, **options):
    """A schedule whose first row was answered, so that it scouts no more."""
    plan = schedule(rows, **options)
    plan.settle(plan.take(0.0), ended(), 0.0, 0.0)
    return plan


def taken(plan, now=0.0):
    """Take all that may go now."""
    turns = []
    while isinstance(turn := plan.take(now), RowAttempt):
        turns.append(turn)
    return turns, turn


# ------------------------------------------------------------ order


@table_test(
    ("rows", "backing_off", "room"),
    [
        (1, 0, True),
        (2, 0, False),
        (4, 2, False),
        (4, 3, True),
        (9, 8, True),
        (10, 9, False),  # four times as many back off
    ],
)
def test_a_schedule_has_room_up_to_width_and_four_times_as_many_in_backoff(rows, backing_off, room):
    plan = proven(50, width=2)
    for _ in range(rows):
        plan.take(0.0)

    assert plan.has_room(backing_off) is room


def test_a_schedule_knows_when_the_next_row_is_due_and_whether_more_come():
    plan = proven(3)
    first, second = plan.take(0.0), plan.take(0.0)
    assert (plan.next_at, plan.all_under_way) == (None, False)  # there may be a fourth
    assert plan.take(0.0) == inf
    assert plan.all_under_way
    for turn, back_at in ((first, 7.0), (second, 5.0)):
        plan.settle(turn, ended(Verdict.THROTTLED, retry_at=back_at), 1.0, 0.0)

    assert (plan.next_at, plan.all_under_way, plan.waiting) == (5.0, False, 2)


def test_rows_go_in_the_order_of_the_input():
    turns, then = taken(proven(50))
    assert [turn.index for turn in turns] == list(range(1, 50))
    assert then == inf
    assert {turn.deadline_at for turn in turns} == {None}


def test_take_returns_none_when_all_rows_have_ended():
    plan = proven(2)
    turn = plan.take(0.0)
    assert plan.take(0.0) == inf
    plan.settle(turn, ended(), 1.0, 0.0)
    assert plan.take(1.0) is None


def test_an_input_without_rows_ends_at_once():
    assert schedule(0).take(0.0) is None


def test_a_due_row_goes_before_fresh_rows_and_not_before_its_time():
    plan = proven(10)
    turn = plan.take(0.0)
    fate = plan.settle(turn, ended(Verdict.THROTTLED, retry_at=5.0), 1.0, 0.0)
    assert fate == Reschedule(5.0)
    assert plan.take(4.99).index == 2
    back = plan.take(5.0)
    assert (back.index, back.attempts, back.rounds) == (1, 1, 1)


def test_without_fresh_rows_take_names_the_next_due_time():
    plan = proven(2)
    plan.settle(plan.take(0.0), ended(Verdict.THROTTLED, retry_at=5.0), 1.0, 0.0)
    assert plan.waiting == 1
    assert plan.take(1.0) == 5.0


def test_fresh_rows_are_held_back_while_many_rows_wait():
    plan = proven(100, delayed=3)
    for _ in range(3):
        plan.settle(plan.take(0.0), ended(Verdict.OVERLOADED, retry_at=9.0), 1.0, 0.0)
    assert plan.take(1.0) == 9.0
    plan.settle(plan.take(9.0), ended(), 9.0, 0.0)
    turns, _ = taken(plan, 8.0)
    assert len(turns) == 96


# ------------------------------------------------------------ probe rows


def test_no_more_than_the_probe_rows_go_until_one_is_answered():
    plan = schedule(100)
    turns, then = taken(plan)
    assert len(turns) == PROBE_ROWS
    assert then == inf
    assert plan.scouting
    plan.settle(turns[7], ended(), 1.0, 0.0)
    assert not plan.scouting
    assert len(taken(plan)[0]) == 80


@table_test("verdict", FINAL)
def test_the_same_final_verdict_for_every_probe_row_stops_the_run(verdict):
    plan = schedule(100)
    turns, _ = taken(plan)
    for turn in turns:
        assert plan.stop_reason() is None
        assert plan.settle(turn, ended(verdict), 1.0, 0.0) == Final(ok=False, attempts=1)
        assert plan.take(1.0) == inf
    assert plan.stop_reason() is verdict


def test_a_rescheduled_probe_row_does_not_admit_more_rows():
    plan = schedule(100)
    turns, _ = taken(plan)
    for turn in turns[:-1]:
        plan.settle(turn, ended(Verdict.AUTH), 1.0, 0.0)
    plan.settle(turns[-1], ended(Verdict.OVERLOADED, retry_at=4.0), 1.0, 0.0)
    assert plan.stop_reason() is None
    assert plan.take(1.0) == 4.0
    plan.settle(plan.take(4.0), ended(Verdict.AUTH), 5.0, 0.0)
    assert plan.stop_reason() is Verdict.AUTH


@table_test("other", [Verdict.OK, Verdict.INVALID, Verdict.BILLING, Verdict.TOO_LONG])
def test_a_probe_row_with_another_result_lets_the_run_go_on(other):
    plan = schedule(100)
    turns, _ = taken(plan)
    for turn in turns[:-1]:
        plan.settle(turn, ended(Verdict.AUTH), 1.0, 0.0)
    plan.settle(turns[-1], ended(other), 1.0, 0.0)
    assert plan.stop_reason() is None
    assert len(taken(plan, 1.0)[0]) == 80


@table_test("verdict", [Verdict.INVALID, Verdict.TOO_LONG, Verdict.FILTERED])
def test_a_verdict_on_the_row_itself_does_not_stop_the_run(verdict):
    plan = schedule(100)
    for _ in range(100):
        plan.settle(plan.take(0.0), ended(verdict), 1.0, 0.0)
    assert plan.stop_reason() is None
    assert plan.take(1.0) is None


@table_test("verdict", [Verdict.INVALID, Verdict.SCHEMA_MISMATCH])
def test_a_verdict_on_the_options_stops_a_run_without_any_answer(verdict):
    plan = schedule(100, unproven=True)
    for turn in taken(plan)[0]:
        plan.settle(turn, ended(verdict), 1.0, 0.0)
    assert plan.stop_reason() is verdict


def test_a_row_is_rescheduled_if_another_gate_refused_its_repair():
    plan = proven(2)
    misfit = ended(Verdict.SCHEMA_MISMATCH, stopped="budget")
    repair = Repair(tokens=10, bound=None)
    fate = plan.settle(
        plan.take(0.0), misfit._replace(outcome=misfit.outcome._replace(repair=repair)), 1.0, 0.0
    )
    assert isinstance(fate, Reschedule)
    back = plan.take(fate.due)
    assert plan.settle(back, misfit, fate.due, 0.0) == Final(ok=False, attempts=2)


@table_test("verdict", [Verdict.CONNECT_FAILED, Verdict.TIMEOUT, Verdict.INVALID])
def test_another_row_replaces_a_probe_row_without_an_http_response(verdict):
    plan = schedule(100)
    turns, _ = taken(plan)
    for turn in turns[:5]:
        over = ended(verdict, status=None, own_deadline=True)
        assert plan.settle(turn, over, 1.0, 0.0) == Final(ok=False, attempts=1)
    assert plan.scouting
    turns = turns[5:] + taken(plan)[0]
    assert len(turns) == PROBE_ROWS
    for turn in turns:
        assert plan.stop_reason() is None
        plan.settle(turn, ended(Verdict.AUTH), 1.0, 0.0)
    assert plan.stop_reason() is Verdict.AUTH


def test_fewer_rows_than_probe_rows_do_not_stop_the_run():
    plan = schedule(PROBE_ROWS - 1)
    for turn in taken(plan)[0]:
        plan.settle(turn, ended(Verdict.AUTH), 1.0, 0.0)
    assert plan.stop_reason() is None
    assert plan.take(1.0) is None


def test_a_final_verdict_of_later_rows_does_not_stop_the_run():
    plan = proven(100)
    for _ in range(99):
        assert plan.settle(plan.take(0.0), ended(Verdict.BILLING), 1.0, 0.0).ok is False
    assert plan.stop_reason() is None


# ------------------------------------------------------------ rescheduling


@table_test("verdict", [*TRANSIENT, Verdict.REJECTED])
@table_test("stopped", ["budget", "attempts", "max_wait", "cooldown", "breaker"])
def test_a_row_is_rescheduled_unless_its_verdict_is_final(verdict, stopped):
    plan = proven(5)
    fate = plan.settle(plan.take(0.0), ended(verdict, stopped=stopped), 1.0, 0.5)
    assert isinstance(fate, Reschedule)
    assert fate.due > 1.0


@table_test(
    "verdict",
    [v for v, t in TREATMENTS.items() if not t.retry and v not in (Verdict.OK, Verdict.REJECTED)],
)
def test_a_final_verdict_ends_the_row(verdict):
    plan = proven(5)
    fate = plan.settle(plan.take(0.0), ended(verdict, attempts=3), 1.0, 0.5)
    assert fate == Final(ok=False, attempts=3)


@table_test(
    ("answered", "verdict", "may_stop"),
    [
        (False, Verdict.AUTH, True),
        (False, Verdict.SERVER_ERROR, False),
        (True, Verdict.AUTH, False),
    ],
)
def test_a_run_may_stop_for_a_final_verdict_until_a_row_is_answered(answered, verdict, may_stop):
    plan = (proven if answered else schedule)(5)

    assert plan.may_stop_for(verdict) is may_stop


def test_a_row_fails_after_ten_attempts_over_all_rounds():
    plan = proven(2)
    now, fate = 0.0, None
    for round_ in range(1, 6):
        turn = plan.take(now)
        fate = plan.settle(turn, ended(Verdict.TIMEOUT, attempts=2), now, 1.0)
        if round_ < 5:
            now = fate.due
    assert fate == Final(ok=False, attempts=ATTEMPTS)


def test_attempts_without_a_connection_do_not_count_for_the_ten():
    plan = proven(2)
    turn = plan.take(0.0)
    for _ in range(50):
        away = ended(Verdict.CONNECT_FAILED, attempts=6, status=None, unconnected=6)
        turn = plan.take(plan.settle(turn, away, 0.0, 0.0).due)
        assert turn.left == ATTEMPTS
    mixed = ended(Verdict.CONNECT_FAILED, attempts=6, status=None, unconnected=2)
    turn = plan.take(plan.settle(turn, mixed, 0.0, 0.0).due)
    assert (turn.attempts, turn.left) == (306, ATTEMPTS - 4)


def test_a_schedule_with_once_sends_each_row_once():
    plan = proven(3, once=True)
    unsent = ended(Verdict.REJECTED, attempts=0, status=None)
    assert isinstance(plan.settle(plan.take(0.0), unsent, 0.0, 0.0), Reschedule)
    fate = plan.settle(plan.take(0.0), ended(Verdict.OVERLOADED), 0.0, 0.0)
    assert fate == Final(ok=False, attempts=1)


@given(uniform=st.floats(0, 1, exclude_max=True), wait=st.floats(0.001, 5000))
def test_a_row_is_due_at_or_after_the_named_time_with_jitter(uniform, wait):
    plan = proven(2)
    fate = plan.settle(plan.take(0.0), ended(Verdict.THROTTLED, retry_at=10 + wait), 10.0, uniform)
    assert 10 + wait <= fate.due + 1e-9
    assert fate.due <= 10 + 1.5 * wait + 1e-6


def test_a_row_fails_if_the_server_asks_for_more_than_a_day():
    """A bug: one `Retry-After` of a year kept a run alive. Our own limits may hold a row for longer."""
    for verdict, wait, comes_back in (
        (Verdict.THROTTLED, 86_400.0, True),
        (Verdict.THROTTLED, 86_401.0, False),
        (Verdict.OVERLOADED, 3e8, False),
        (Verdict.REJECTED, 2_592_000.0, True),
    ):
        plan = proven(2)
        result = ended(verdict, status=None, retry_at=10 + wait)
        fate = plan.settle(plan.take(0.0), result, 10.0, 0.5)
        assert isinstance(fate, Reschedule) is comes_back, (verdict, wait)


def test_rows_with_the_same_retry_after_are_spread_out():
    plan = proven(12)
    turns = taken(plan)[0]
    dues = [
        plan.settle(turn, ended(Verdict.THROTTLED, retry_at=110.0), 10.0, n / 10).due
        for n, turn in enumerate(turns[:10])
    ]
    assert dues == pytest.approx([110.0 + 5.0 * n for n in range(10)])


@given(uniform=st.floats(0, 1, exclude_max=True), rounds=st.integers(0, 9))
def test_the_pause_without_a_named_time_is_bounded(uniform, rounds):
    plan = proven(2)
    plan.take(0.0)
    turn = RowAttempt(index=1, rounds=rounds)
    fate = plan.settle(turn, ended(Verdict.RESET, retry_at=3.0), 10.0, uniform)  # long past
    assert 10.5 <= fate.due <= 70.0


def unanswered(plan, turn, rounds):
    """Reschedule a row `rounds` times; a round takes a second and no other row is answered."""
    for _ in range(rounds):
        fate = plan.settle(turn, ended(Verdict.RESET, attempts=0), turn.began + 1.0, 1.0)
        turn = plan.take(fate.due)
    return turn


def test_the_pause_grows_while_no_row_is_answered():
    plan = proven(2)
    turn = unanswered(plan, plan.take(0.0), 4)
    pauses = [
        plan.settle(turn, ended(Verdict.RESET), turn.began + 1.0, uniform).due - turn.began - 1.0
        for uniform in (0.5, 1.0)
    ]
    assert pauses == pytest.approx([16.0, 32.0])


def test_the_pause_does_not_grow_if_other_rows_were_answered():
    """It was bad luck."""
    plan = proven(3)
    turn = unanswered(plan, plan.take(0.0), 4)
    now = turn.began + 1.0
    plan.settle(plan.take(turn.began), ended(), now, 0.0)
    fate = plan.settle(turn, ended(Verdict.RESET), now, 1.0)
    assert fate == Reschedule(now + 2.0)


@table_test("more", [{"source": FALLBACK}, {"source": CACHE}])
def test_a_fallback_answer_does_not_count_as_an_answer_of_the_target(more):
    plan = proven(3)
    turn = unanswered(plan, plan.take(0.0), 4)
    now = turn.began + 1.0
    plan.settle(plan.take(turn.began), ended(**more), now, 0.0)
    fate = plan.settle(turn, ended(Verdict.RESET), now, 1.0)
    assert fate == Reschedule(now + 32.0)


@table_test(("sent", "pause"), [(5, 2.0), (6, 32.0)])
def test_the_last_attempts_of_a_row_are_spread_out(sent, pause):
    """A row that is sent often may use up its attempts before an outage ends."""
    plan = proven(3)
    turn = unanswered(plan, plan.take(0.0), 4)
    now = turn.began + 1.0
    plan.settle(plan.take(turn.began), ended(), now, 0.0)
    fate = plan.settle(turn, ended(Verdict.RESET, attempts=sent), now, 1.0)
    assert fate == Reschedule(now + pause)


# ------------------------------------------------------------ the deadline


def test_the_deadline_of_a_row_starts_with_its_first_attempt_and_covers_all_rounds():
    plan = proven(3)
    turn = plan.take(100.0)
    assert turn.deadline_at is None
    result = ended(Verdict.THROTTLED, retry_at=104.0, deadline_at=110.0)
    plan.settle(turn, result, 101.0, 0.0)
    back = plan.take(104.0)
    assert (back.index, back.deadline_at) == (1, 110.0)
    fate = plan.settle(back, ended(Verdict.THROTTLED, retry_at=110.0), 105.0, 0.0)
    assert fate == Final(ok=False, attempts=2)


def test_a_row_that_was_never_sent_has_no_deadline_yet():
    plan = proven(2)
    turn = plan.take(0.0)
    for _ in range(50):
        unsent = ended(Verdict.REJECTED, attempts=0, status=None, retry_at=turn.rounds + 1000.0)
        turn = plan.take(plan.settle(turn, unsent, 0.0, 0.0).due)
        assert turn.deadline_at is None


def test_a_row_whose_attempt_hit_its_deadline_is_not_retried():
    plan = proven(3)
    turn = plan.take(0.0)
    fate = plan.settle(turn, ended(Verdict.TIMEOUT, own_deadline=True), 9.9, 0.0)
    assert fate == Final(ok=False, attempts=1)


# ------------------------------------------------------------ nothing is lost

OUTCOMES = st.tuples(
    st.sampled_from([v for v in Verdict if v is not Verdict.CANCELLED]),
    st.integers(0, 6),
    st.one_of(st.none(), st.floats(-5, 60)),
    st.floats(0, 1, exclude_max=True),
)


@given(
    rows=st.integers(0, 60),
    width=st.integers(1, 40),
    delayed=st.integers(1, 10),
    deadline=st.one_of(st.none(), st.floats(1, 100)),
    script=st.lists(OUTCOMES, max_size=200),
)
def test_every_row_ends_exactly_once(rows, width, delayed, deadline, script):
    plan = schedule(rows, delayed=delayed)
    under_way, over, attempts = [], [], dict.fromkeys(range(rows), 0)
    now, outcomes = 0.0, iter(script)
    while plan.stop_reason() is None:
        turn = plan.take(now) if len(under_way) < width else inf
        if turn is None:
            break
        if isinstance(turn, RowAttempt):
            assert turn.index not in over
            assert turn.index not in {other.index for other in under_way}
            under_way.append(turn)
        elif under_way:
            turn = under_way.pop(0)
            verdict, sends, wait, uniform = next(outcomes, (Verdict.OK, 1, None, 0.0))
            retry_at = None if wait is None else now + wait
            begun = None if not sends or deadline is None else now + deadline
            result = ended(
                verdict,
                attempts=sends,
                status=200 if sends % 2 or verdict is Verdict.OK else None,
                retry_at=retry_at,
                deadline_at=begun,
            )
            fate = plan.settle(turn, result, now, uniform)
            attempts[turn.index] += sends
            if isinstance(fate, Final):
                assert fate.attempts == attempts[turn.index]
                over.append(turn.index)
            else:
                assert fate.due > now
        else:
            assert now < turn < inf, "it must say when to ask again"
            now = turn
        assert plan.under_way == len(under_way)
        assert plan.waiting <= delayed + width
        assert plan.waiting + len(under_way) + len(over) <= rows
    if plan.stop_reason() is None:
        assert sorted(over) == list(range(rows))
    else:
        assert over == list(range(PROBE_ROWS)) or len(over) == PROBE_ROWS


def test_a_row_whose_quick_retry_was_forbidden_is_rescheduled():
    plan = Schedule(iter([0]))
    never = Outcome(Verdict.THROTTLED, status=429, forbidden=True)
    over = CallResult(never, attempts=1, stopped="forbidden")

    assert isinstance(plan.settle(plan.take(0.0), over, 1.0, 0.0), Reschedule)


def test_possibly_processed_attempts_are_summed_over_all_rounds():
    plan = Schedule(iter([0]))
    first = ended(Verdict.TIMEOUT, attempts=3, maybe_processed=2)
    due = plan.settle(plan.take(0.0), first, 1.0, 0.0).due
    last = ended(Verdict.INVALID, attempts=2, maybe_processed=1)

    assert Final(ok=False, attempts=5, maybe_processed=3) == plan.settle(
        plan.take(due), last, due, 0.0
    )
