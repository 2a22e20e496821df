"""The verdict in a sentence, and the weakest moment, of series that can be counted by hand."""

from dataclasses import replace

from measured import MEASURES
from table_test import table_test

from stormbreak.provider.scenario import Load, Provider, Scenario
from stormbreak.storm.result import NO_SERIES, Result
from stormbreak.storm.verdict import Moment, missing, unrecovered_answers, verdict, weakest

LOAD = Load(rate=10.0, timeout=3.0, trigger_at=10.0, trigger_until=20.0)
STORM = Scenario(name="squall", duration=60.0, provider=Provider(), load=LOAD)
CALM = replace(STORM, load=replace(LOAD, trigger_at=None, trigger_until=None))


def result(answers, *, ideal=10.0, seed=0, **changes):
    counted = replace(NO_SERIES, answers=tuple(answers), ideal=(ideal,) * len(answers))
    measures = replace(MEASURES, **changes)
    return Result(scenario="squall", policy="mine", seed=seed, measures=measures, series=counted)


def flat(**at):
    """Ten answers in each of sixty seconds, except for those in `at`."""
    return [at.get(f"s{second}", 10) for second in range(60)]


# ------------------------------------------------------------ missing answers


def test_an_answer_never_made_up_for_is_missing_in_its_second():
    lacks = missing(result(flat(s30=2, s31=0)).series, near=3.0)

    assert {second: amount for second, amount in enumerate(lacks) if amount} == {30: 8.0, 31: 10.0}


@table_test(("spare", "left"), [(27, {}), (33, {}), (26, {30: 10.0}), (34, {30: 10.0}), (30, {})])
def test_an_answer_within_one_timeout_is_not_missing(spare, left):
    """The timeout of an attempt is 3 s here."""
    answers = flat(s30=0)
    answers[spare] += 10
    lacks = missing(result(answers).series, near=3.0)

    assert {second: amount for second, amount in enumerate(lacks) if amount} == left


def test_one_surplus_answer_makes_up_for_one_missing_answer():
    lacks = missing(result(flat(s29=0, s30=0, s31=15)).series, near=3.0)
    assert (lacks[29], lacks[30]) == (10.0, 5.0)

    lacks = missing(result(flat(s28=15, s29=0, s30=0)).series, near=3.0)
    assert (lacks[29], lacks[30]) == (5.0, 10.0)


def test_the_weakest_moment_is_the_one_with_most_missing_answers():
    gaps = flat(s30=2, s40=0, s42=5)

    assert weakest([result(gaps)], LOAD) == Moment(38, 43, 15.0, 50.0, 0)


def test_the_first_of_equal_moments_and_the_worst_seed_is_the_weakest():
    twice = result(flat(s30=2, s50=2))
    worse = result(flat(s40=1), seed=7)

    assert weakest([twice], LOAD) == Moment(26, 31, 8.0, 50.0, 0)
    assert weakest([twice, worse], LOAD) == Moment(36, 41, 9.0, 50.0, 7)


def test_moments_before_the_trigger_do_not_count():
    assert weakest([result(flat(s5=0, s30=2))], LOAD).start == 26
    assert weakest([result(flat(s5=0, s30=2))], CALM.load).start == 1
    assert weakest([result([10] * 5)], LOAD) is None  # it ended before the trigger


def test_less_than_one_missing_answer_is_no_weakness():
    assert weakest([result(flat(), ideal=10.005)], LOAD) is None
    assert weakest([result([])], LOAD) is None


def test_a_policy_that_is_always_slightly_late_has_no_weak_moment():
    """Each answer comes two seconds after the ideal one: those of the first second are not missing."""
    behind = result([0, 0, *[10] * 40, *[20] * 2, *[0] * 16]).series
    behind = replace(behind, ideal=(*[10.0] * 44, *[0.0] * 16))
    late = replace(result([]), series=behind)

    assert max(missing(behind, near=3.0)) == 10.0
    assert weakest([late], CALM.load) is None


@table_test(
    ("answers", "lost"),
    [
        (flat(), 0.0),
        (flat(s30=0, s33=20), 0.0),
        (flat(s30=0, s50=20), 0.0),  # until then each answer is a second late
        (flat(s30=20, s50=0), 0.0),  # or a second early
        (flat(s20=0, s21=0, s23=25), 5.0),
        (flat(s20=0, s21=0, s22=0, s23=0, s24=50), 10.0),
        (flat(s59=0), 10.0),
    ],
)
def test_answers_that_no_surplus_makes_up_for_are_lost(answers, lost):
    assert unrecovered_answers(result(answers).series, near=3.0) == lost


# ------------------------------------------------------------ the sentence


@table_test(
    ("changes", "expected"),
    [
        ({}, "recovers 2 s after the trigger and answers 98.0 % of what was possible, "),
        ({"recovery": 0.0}, "recovers 0 s after the trigger and answers"),
        ({"recovery": None}, "does not recover in the 40 s after the trigger and answers"),
    ],
)
def test_the_sentence_of_a_storm_names_recovery_and_weakest_moment(changes, expected):
    sentence = verdict(STORM, [result(flat(s15=0), **changes)])

    assert sentence.startswith(f"squall under mine {expected}")
    assert sentence.endswith(
        ", 90.0 % while the trigger lasts; the weakest moment is second 11 to 16"
        " (40 of 50 possible answers)."
    )


@table_test(
    ("changes", "expected"),
    [
        ({}, "the last after 59.5 s; it sheds nothing and adds no wait; no moment is weak."),
        ({"shed": 1200}, "it sheds 1,200 calls and adds no wait; "),
        ({"added_wait_p99": 2.5}, "it sheds nothing and adds up to 2.5 s of wait; "),
        ({"makespan": None}, "possible, no answer came in time; it sheds nothing"),
    ],
)
def test_the_sentence_of_a_calm_names_shed_calls_and_added_wait(changes, expected):
    sentence = verdict(CALM, [result(flat(), **changes)])

    assert sentence.startswith("squall under mine answers 98.0 % of what was possible, ")
    assert expected in sentence


@table_test(
    ("recoveries", "expected"),
    [
        ((2.0, 2.0), "recovers 2 s after the trigger"),
        ((2.0, 5.0), "recovers 3.5 ±2.1 s (at worst 5 s) after the trigger"),
        ((2.0, None), "recovers from the trigger in only 1 of 2 runs"),
        ((None, None), "does not recover in the 40 s after the trigger"),
    ],
)
def test_the_sentence_of_several_seeds_names_mean_and_worst_recovery(recoveries, expected):
    both = [
        result(flat(), seed=3 + place, recovery=recovery, goodput=0.97 + place / 100)
        for place, recovery in enumerate(recoveries)
    ]
    sentence = verdict(STORM, both)

    assert sentence == (
        f"squall under mine (seeds 3-4) {expected} and answers 97.5 ±0.7 % of what was possible,"
        " 90.0 % while the trigger lasts; no moment is weak."
    )


def test_the_sentence_of_several_seeds_names_mean_makespan():
    both = [result(flat(), makespan=50.0), result(flat(), makespan=52.0)]
    assert "the last after 51.0 ±1.4 s; " in verdict(CALM, both)

    both[1] = result(flat(), makespan=None)
    assert "possible, none came in 1 runs; " in verdict(CALM, both)


def test_runs_without_a_series_have_no_weakest_moment():
    sentence = verdict(STORM, [replace(result([]), series=NO_SERIES)])
    assert sentence.endswith("90.0 % while the trigger lasts.")


def test_a_share_is_undefined_while_no_answer_was_possible():
    some = [result(flat()), result(flat(), seed=1, trigger_goodput=None, goodput=None)]

    assert "possible, nothing being possible while the trigger lasts; no moment" in verdict(
        STORM, [result(flat(), trigger_goodput=None)]
    )
    assert (
        "has nothing to answer in 1 of 2 runs, nothing being possible while the trigger lasts in 1 of 2"
        in verdict(STORM, some)
    )


@table_test("storm", [STORM, CALM])
def test_the_sentence_says_that_no_answer_was_possible(storm):
    """It does not say 100 %."""
    nothing = [result([0] * 60, ideal=0.0, goodput=None, trigger_goodput=None)]
    assert (
        verdict(storm, nothing)
        == "squall under mine: no answer in time was possible, for any client."
    )


def test_possible_answers_before_the_trigger_do_not_count():
    counted = replace(NO_SERIES, answers=(9,) * 60, ideal=(9.0,) * 10 + (0.0,) * 50)
    assert "no answer in time was possible" in verdict(STORM, [replace(result([]), series=counted)])
    assert "no answer in time was possible" not in verdict(
        CALM, [replace(result([]), series=counted)]
    )
