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
    made = schedule(rows, **options)
    made.settle(made.take(0.0), ended(), 0.0, 0.0)
    return made


def taken(made, now=0.0):
    """Take all that may go now."""
    turns = []
    while isinstance(turn := made.take(now), RowAttempt):
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
def test_so_many_are_sent_at_once_and_four_times_as_many_back_off(rows, backing_off, room):
    made = proven(50, width=2)
    for _ in range(rows):
        made.take(0.0)

    assert made.has_room(backing_off) is room


def test_it_knows_when_the_next_row_comes_back_and_whether_any_will():
    made = proven(3)
    first, second = made.take(0.0), made.take(0.0)
    assert (made.next_at, made.all_under_way) == (None, False)  # there may be a fourth
    assert made.take(0.0) == inf
    assert made.all_under_way
    for turn, back_at in ((first, 7.0), (second, 5.0)):
        made.settle(turn, ended(Verdict.THROTTLED, retry_at=back_at), 1.0, 0.0)

    assert (made.next_at, made.all_under_way, made.waiting) == (5.0, False, 2)


def test_rows_go_in_the_order_of_the_input():
    turns, then = taken(proven(50))
    assert [turn.index for turn in turns] == list(range(1, 50))
    assert then == inf
    assert {turn.deadline_at for turn in turns} == {None}


def test_when_all_are_over_it_says_so():
    made = proven(2)
    turn = made.take(0.0)
    assert made.take(0.0) == inf
    made.settle(turn, ended(), 1.0, 0.0)
    assert made.take(1.0) is None


def test_no_row_at_all():
    assert schedule(0).take(0.0) is None


def test_who_comes_back_goes_before_fresh_rows_and_not_before_its_time():
    made = proven(10)
    turn = made.take(0.0)
    fate = made.settle(turn, ended(Verdict.THROTTLED, retry_at=5.0), 1.0, 0.0)
    assert fate == Reschedule(5.0)
    assert made.take(4.99).index == 2
    back = made.take(5.0)
    assert (back.index, back.attempts, back.rounds) == (1, 1, 1)


def test_with_nothing_fresh_it_says_when_the_next_comes_back():
    made = proven(2)
    made.settle(made.take(0.0), ended(Verdict.THROTTLED, retry_at=5.0), 1.0, 0.0)
    assert made.waiting == 1
    assert made.take(1.0) == 5.0


def test_fresh_rows_are_held_back_while_many_wait():
    made = proven(100, delayed=3)
    for _ in range(3):
        made.settle(made.take(0.0), ended(Verdict.OVERLOADED, retry_at=9.0), 1.0, 0.0)
    assert made.take(1.0) == 9.0
    made.settle(made.take(9.0), ended(), 9.0, 0.0)
    turns, _ = taken(made, 8.0)
    assert len(turns) == 96


# ------------------------------------------------------------ scouts


def test_at_most_so_many_scouts_go_until_one_speaks():
    made = schedule(100)
    turns, then = taken(made)
    assert len(turns) == PROBE_ROWS
    assert then == inf
    assert made.scouting
    made.settle(turns[7], ended(), 1.0, 0.0)
    assert not made.scouting
    assert len(taken(made)[0]) == 80


@table_test("verdict", FINAL)
def test_the_same_final_verdict_for_every_scout_stops_the_run(verdict):
    made = schedule(100)
    turns, _ = taken(made)
    for turn in turns:
        assert made.stop_reason() is None
        assert made.settle(turn, ended(verdict), 1.0, 0.0) == Final(ok=False, attempts=1)
        assert made.take(1.0) == inf
    assert made.stop_reason() is verdict


def test_scouts_that_come_back_do_not_let_more_go():
    made = schedule(100)
    turns, _ = taken(made)
    for turn in turns[:-1]:
        made.settle(turn, ended(Verdict.AUTH), 1.0, 0.0)
    made.settle(turns[-1], ended(Verdict.OVERLOADED, retry_at=4.0), 1.0, 0.0)
    assert made.stop_reason() is None
    assert made.take(1.0) == 4.0
    made.settle(made.take(4.0), ended(Verdict.AUTH), 5.0, 0.0)
    assert made.stop_reason() is Verdict.AUTH


@table_test("other", [Verdict.OK, Verdict.INVALID, Verdict.BILLING, Verdict.TOO_LONG])
def test_one_scout_that_met_something_else_speaks_for_the_run(other):
    made = schedule(100)
    turns, _ = taken(made)
    for turn in turns[:-1]:
        made.settle(turn, ended(Verdict.AUTH), 1.0, 0.0)
    made.settle(turns[-1], ended(other), 1.0, 0.0)
    assert made.stop_reason() is None
    assert len(taken(made, 1.0)[0]) == 80


@table_test("verdict", [Verdict.INVALID, Verdict.TOO_LONG, Verdict.FILTERED])
def test_a_verdict_on_the_row_itself_stops_nothing(verdict):
    made = schedule(100)
    for _ in range(100):
        made.settle(made.take(0.0), ended(verdict), 1.0, 0.0)
    assert made.stop_reason() is None
    assert made.take(1.0) is None


@table_test("verdict", [Verdict.INVALID, Verdict.SCHEMA_MISMATCH])
def test_a_verdict_on_the_options_stops_a_run_without_any_answer(verdict):
    made = schedule(100, unproven=True)
    for turn in taken(made)[0]:
        made.settle(turn, ended(verdict), 1.0, 0.0)
    assert made.stop_reason() is verdict


def test_a_row_whose_repair_another_gate_refused_comes_back():
    made = proven(2)
    misfit = ended(Verdict.SCHEMA_MISMATCH, stopped="budget")
    repair = Repair(tokens=10, bound=None)
    fate = made.settle(
        made.take(0.0), misfit._replace(outcome=misfit.outcome._replace(repair=repair)), 1.0, 0.0
    )
    assert isinstance(fate, Reschedule)
    back = made.take(fate.due)
    assert made.settle(back, misfit, fate.due, 0.0) == Final(ok=False, attempts=2)


@table_test("verdict", [Verdict.CONNECT_FAILED, Verdict.TIMEOUT, Verdict.INVALID])
def test_a_scout_that_got_no_answer_in_http_says_nothing_and_another_goes(verdict):
    made = schedule(100)
    turns, _ = taken(made)
    for turn in turns[:5]:
        over = ended(verdict, status=None, own_deadline=True)
        assert made.settle(turn, over, 1.0, 0.0) == Final(ok=False, attempts=1)
    assert made.scouting
    turns = turns[5:] + taken(made)[0]
    assert len(turns) == PROBE_ROWS
    for turn in turns:
        assert made.stop_reason() is None
        made.settle(turn, ended(Verdict.AUTH), 1.0, 0.0)
    assert made.stop_reason() is Verdict.AUTH


def test_fewer_rows_than_scouts_stop_nothing():
    made = schedule(PROBE_ROWS - 1)
    for turn in taken(made)[0]:
        made.settle(turn, ended(Verdict.AUTH), 1.0, 0.0)
    assert made.stop_reason() is None
    assert made.take(1.0) is None


def test_later_rows_with_a_stopping_verdict_stop_nothing():
    made = proven(100)
    for _ in range(99):
        assert made.settle(made.take(0.0), ended(Verdict.BILLING), 1.0, 0.0).ok is False
    assert made.stop_reason() is None


# ------------------------------------------------------------ coming back


@table_test("verdict", [*TRANSIENT, Verdict.REJECTED])
@table_test("stopped", ["budget", "attempts", "max_wait", "cooldown", "breaker"])
def test_whatever_stops_a_call_but_a_final_verdict_lets_the_row_come_back(verdict, stopped):
    made = proven(5)
    fate = made.settle(made.take(0.0), ended(verdict, stopped=stopped), 1.0, 0.5)
    assert isinstance(fate, Reschedule)
    assert fate.due > 1.0


@table_test(
    "verdict",
    [v for v, t in TREATMENTS.items() if not t.retry and v not in (Verdict.OK, Verdict.REJECTED)],
)
def test_a_final_verdict_ends_the_row(verdict):
    made = proven(5)
    fate = made.settle(made.take(0.0), ended(verdict, attempts=3), 1.0, 0.5)
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
    made = (proven if answered else schedule)(5)

    assert made.may_stop_for(verdict) is may_stop


def test_a_row_fails_after_so_many_attempts_over_all_rounds():
    made = proven(2)
    now, fate = 0.0, None
    for round_ in range(1, 6):
        turn = made.take(now)
        fate = made.settle(turn, ended(Verdict.TIMEOUT, attempts=2), now, 1.0)
        if round_ < 5:
            now = fate.due
    assert fate == Final(ok=False, attempts=ATTEMPTS)


def test_what_never_got_a_connection_is_no_attempt_of_the_ten():
    made = proven(2)
    turn = made.take(0.0)
    for _ in range(50):
        away = ended(Verdict.CONNECT_FAILED, attempts=6, status=None, unconnected=6)
        turn = made.take(made.settle(turn, away, 0.0, 0.0).due)
        assert turn.left == ATTEMPTS
    mixed = ended(Verdict.CONNECT_FAILED, attempts=6, status=None, unconnected=2)
    turn = made.take(made.settle(turn, mixed, 0.0, 0.0).due)
    assert (turn.attempts, turn.left) == (306, ATTEMPTS - 4)


def test_once_is_once():
    made = proven(3, once=True)
    unsent = ended(Verdict.REJECTED, attempts=0, status=None)
    assert isinstance(made.settle(made.take(0.0), unsent, 0.0, 0.0), Reschedule)
    fate = made.settle(made.take(0.0), ended(Verdict.OVERLOADED), 0.0, 0.0)
    assert fate == Final(ok=False, attempts=1)


@given(uniform=st.floats(0, 1, exclude_max=True), wait=st.floats(0.001, 5000))
def test_never_before_the_named_time_and_spread_beyond_it(uniform, wait):
    made = proven(2)
    fate = made.settle(made.take(0.0), ended(Verdict.THROTTLED, retry_at=10 + wait), 10.0, uniform)
    assert 10 + wait <= fate.due + 1e-9
    assert fate.due <= 10 + 1.5 * wait + 1e-6


def test_a_row_that_the_server_asks_to_wait_for_more_than_a_day_fails():
    """Found: a run never ended for one `Retry-After` of a year. A limit of our own may hold a row for longer."""
    for verdict, wait, comes_back in (
        (Verdict.THROTTLED, 86_400.0, True),
        (Verdict.THROTTLED, 86_401.0, False),
        (Verdict.OVERLOADED, 3e8, False),
        (Verdict.REJECTED, 2_592_000.0, True),
    ):
        made = proven(2)
        told = ended(verdict, status=None, retry_at=10 + wait)
        fate = made.settle(made.take(0.0), told, 10.0, 0.5)
        assert isinstance(fate, Reschedule) is comes_back, (verdict, wait)


def test_rows_with_the_same_retry_after_are_spread_out():
    made = proven(12)
    turns = taken(made)[0]
    dues = [
        made.settle(turn, ended(Verdict.THROTTLED, retry_at=110.0), 10.0, n / 10).due
        for n, turn in enumerate(turns[:10])
    ]
    assert dues == pytest.approx([110.0 + 5.0 * n for n in range(10)])


@given(uniform=st.floats(0, 1, exclude_max=True), rounds=st.integers(0, 9))
def test_without_a_named_time_the_pause_is_bounded_and_never_nothing(uniform, rounds):
    made = proven(2)
    made.take(0.0)
    turn = RowAttempt(index=1, rounds=rounds)
    fate = made.settle(turn, ended(Verdict.RESET, retry_at=3.0), 10.0, uniform)  # long past
    assert 10.5 <= fate.due <= 70.0


def dark(made, turn, rounds):
    """Let a row come back so often, in rounds that each take a second and in which no other row is answered."""
    for _ in range(rounds):
        fate = made.settle(turn, ended(Verdict.RESET, attempts=0), turn.began + 1.0, 1.0)
        turn = made.take(fate.due)
    return turn


def test_the_pause_grows_while_no_row_is_answered():
    made = proven(2)
    turn = dark(made, made.take(0.0), 4)
    pauses = [
        made.settle(turn, ended(Verdict.RESET), turn.began + 1.0, uniform).due - turn.began - 1.0
        for uniform in (0.5, 1.0)
    ]
    assert pauses == pytest.approx([16.0, 32.0])


def test_a_row_in_whose_round_others_were_answered_comes_back_soon():
    """It was bad luck, so the pause does not grow."""
    made = proven(3)
    turn = dark(made, made.take(0.0), 4)
    now = turn.began + 1.0
    made.settle(made.take(turn.began), ended(), now, 0.0)
    fate = made.settle(turn, ended(Verdict.RESET), now, 1.0)
    assert fate == Reschedule(now + 2.0)


@table_test("more", [{"source": FALLBACK}, {"source": CACHE}])
def test_an_answer_from_elsewhere_says_nothing_about_the_target(more):
    made = proven(3)
    turn = dark(made, made.take(0.0), 4)
    now = turn.began + 1.0
    made.settle(made.take(turn.began), ended(**more), now, 0.0)
    fate = made.settle(turn, ended(Verdict.RESET), now, 1.0)
    assert fate == Reschedule(now + 32.0)


@table_test(("sent", "pause"), [(5, 2.0), (6, 32.0)])
def test_the_last_sends_of_a_row_are_spread_out(sent, pause):
    """The trouble may outlast a row that is sent often."""
    made = proven(3)
    turn = dark(made, made.take(0.0), 4)
    now = turn.began + 1.0
    made.settle(made.take(turn.began), ended(), now, 0.0)
    fate = made.settle(turn, ended(Verdict.RESET, attempts=sent), now, 1.0)
    assert fate == Reschedule(now + pause)


# ------------------------------------------------------------ the deadline


def test_the_deadline_of_a_row_begins_with_its_first_attempt_and_holds_over_all_rounds():
    made = proven(3)
    turn = made.take(100.0)
    assert turn.deadline_at is None
    told = ended(Verdict.THROTTLED, retry_at=104.0, deadline_at=110.0)
    made.settle(turn, told, 101.0, 0.0)
    back = made.take(104.0)
    assert (back.index, back.deadline_at) == (1, 110.0)
    fate = made.settle(back, ended(Verdict.THROTTLED, retry_at=110.0), 105.0, 0.0)
    assert fate == Final(ok=False, attempts=2)


def test_a_row_that_was_never_sent_has_no_deadline_yet():
    made = proven(2)
    turn = made.take(0.0)
    for _ in range(50):
        unsent = ended(Verdict.REJECTED, attempts=0, status=None, retry_at=turn.rounds + 1000.0)
        turn = made.take(made.settle(turn, unsent, 0.0, 0.0).due)
        assert turn.deadline_at is None


def test_an_attempt_that_our_own_deadline_ended_is_not_tried_again():
    made = proven(3)
    turn = made.take(0.0)
    fate = made.settle(turn, ended(Verdict.TIMEOUT, own_deadline=True), 9.9, 0.0)
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
    made = schedule(rows, delayed=delayed)
    under_way, over, attempts = [], [], dict.fromkeys(range(rows), 0)
    now, outcomes = 0.0, iter(script)
    while made.stop_reason() is None:
        turn = made.take(now) if len(under_way) < width else inf
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
            told = ended(
                verdict,
                attempts=sends,
                status=200 if sends % 2 or verdict is Verdict.OK else None,
                retry_at=retry_at,
                deadline_at=begun,
            )
            fate = made.settle(turn, told, now, uniform)
            attempts[turn.index] += sends
            if isinstance(fate, Final):
                assert fate.attempts == attempts[turn.index]
                over.append(turn.index)
            else:
                assert fate.due > now
        else:
            assert now < turn < inf, "it must say when to ask again"
            now = turn
        assert made.under_way == len(under_way)
        assert made.waiting <= delayed + width
        assert made.waiting + len(under_way) + len(over) <= rows
    if made.stop_reason() is None:
        assert sorted(over) == list(range(rows))
    else:
        assert over == list(range(PROBE_ROWS)) or len(over) == PROBE_ROWS


def test_a_row_whose_quick_retry_was_forbidden_comes_back():
    made = Schedule(iter([0]))
    never = Outcome(Verdict.THROTTLED, status=429, forbidden=True)
    over = CallResult(never, attempts=1, stopped="forbidden")

    assert isinstance(made.settle(made.take(0.0), over, 1.0, 0.0), Reschedule)


def test_what_may_have_been_processed_is_summed_over_the_rounds_of_a_row():
    made = Schedule(iter([0]))
    first = ended(Verdict.TIMEOUT, attempts=3, maybe_processed=2)
    due = made.settle(made.take(0.0), first, 1.0, 0.0).due
    last = ended(Verdict.INVALID, attempts=2, maybe_processed=1)

    assert Final(ok=False, attempts=5, maybe_processed=3) == made.settle(
        made.take(due), last, due, 0.0
    )
