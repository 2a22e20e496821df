"""--assert: valid and invalid assertions."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.errors import ConfigurationError
from stormbreak.storm.assertions import NAMES, parse_assertion, values
from stormbreak.storm.measures import Measures

CALM = Measures(
    goodput=0.98,
    trigger_goodput=0.95,
    success=0.9,
    recovery=3.0,
    p50=2.0,
    p99=7.0,
    added_wait_p50=0.0,
    added_wait_p99=0.04,
    makespan=None,
    makespan_99=None,
    amplification=0.91,
    attempts_per_sent_call=1.0,
    peak_attempts=173,
    shed=0,
    wasted=0.001,
    openings=0,
    calls=1000,
)


@table_test(
    ("text", "holds"),
    [
        ("goodput >= 0.98", True),
        ("goodput>0.98", False),
        ("recovery <= 5 and shed == 0", True),
        ("recovery <= 5 and shed != 0", False),
        ("recovery > 5 or p99 < 8", True),
        ("p99 < 1 or p50 < 1", False),
        # and binds tighter than or
        ("shed == 0 or shed == 1 and shed == 2", True),
        ("(shed == 0 or shed == 1) and shed == 2", False),
        ("((shed == 0))", True),
        ("recovery < never", True),
        ("recovery == never", False),
        # never is later than any number
        ("makespan == never", True),
        ("makespan > 1000000", True),
        ("makespan <= 115", False),
        ("wasted < .01", True),
    ],
)
def test_an_assertion_compares_measures(text, holds):
    assert parse_assertion(text).holds(CALM) is holds


@table_test("sign", ["<", "<=", ">", ">=", "==", "!="])
def test_no_comparison_holds_for_an_undefined_share(sign):
    assertion = parse_assertion(f"goodput {sign} 0.5 and shed == 0")
    nothing = replace(CALM, goodput=None)

    assert not assertion.holds(nothing)
    assert parse_assertion(f"goodput {sign} 0.5 or shed == 0").holds(nothing)
    assert values(assertion, nothing) == "goodput is undefined, shed is 0"


def test_an_assertion_lists_its_measures():
    assertion = parse_assertion("goodput > 1 or (shed == 0 and goodput > 0.5)")

    assert assertion.names() == ("goodput", "shed")


@table_test(
    ("text", "message"),
    [
        ("godput >= 0.97", "'godput' is not a measure; did you mean goodput?"),
        ("recover == never", "'recover' is not a measure; did you mean recovery?"),
        ("", "unexpected end"),
        ("goodput >= 0.9 and", "unexpected end"),
        ("goodput = 0.9", "cannot be parsed from '= 0.9' on; write =="),
        ("goodput >= 90%", "cannot be parsed from '%' on; write 0.9 for 90 %"),
        ("p99 < 3 & shed == 0", "cannot be parsed from '& shed == 0' on; write and"),
        ("p99 < 3 || shed == 0", "cannot be parsed from '|| shed == 0' on; write or"),
        ("goodput >= 95", "goodput is a share, 0.9 for 90 %, got 95"),
        ("wasted <= 5", "wasted is a share, 0.9 for 90 %, got 5"),
        ("goodput", "goodput must be followed by one of < <= > >= == !=, got ''"),
        ("goodput >= much", "goodput must be compared with a number, got 'much'"),
        ("goodput == never", "goodput must be compared with a number, got 'never'"),
        ("(goodput > 0.9", "a closing parenthesis is missing"),
        ("goodput > 0.9)", "unexpected ')'"),
        ("goodput > 0.9 shed == 0", "unexpected 'shed'"),
        ("0.9 < goodput", "'0.9' is not a measure"),
        ("goodput != nan", "goodput must be compared with a number, got 'nan'"),
        ("p99 <= infinity", "p99 must be compared with a number, got 'infinity'"),
        ("p99 <= Inf", "p99 must be compared with a number, got 'Inf'"),
        ("p99 <= 1e3", "cannot be parsed from '1e3' on"),
        ("p99 <= 1_000", "cannot be parsed from '1_000' on"),
        ("p99 <= 1.2.3", "cannot be parsed from '1.2.3' on"),
        ("p99 <= " + "9" * 400, "p99 must be compared with a number, got '9999"),
        ("shed == 0and goodput >= 0", "cannot be parsed from '0and goodput >= 0' on"),
        ("shed == 0goodput", "cannot be parsed from '0goodput' on"),
        ("GOODPUT > 0", "'GOODPUT' is not a measure; did you mean goodput?"),
        ("P99 > 0", "'P99' is not a measure; did you mean p99?"),
        (
            "attempts_per_sent_call==1 and godput==1",
            "'godput' is not a measure; did you mean goodput?",
        ),
        ("sk-proj-abcdefgh12345678 > 1", "cannot be parsed, and contains what looks like a key"),
        ("__import__('os')", "cannot be parsed from"),
        ("(" * 21 + "shed == 0" + ")" * 21, "more than 20 nested parentheses"),
        ("shed == 0 or " * 100, "longer than 1000 characters"),
    ],
)
def test_an_invalid_assertion_is_rejected_with_a_message(text, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        parse_assertion(text)


words = st.sampled_from([*NAMES, "and", "or", "(", ")", "<", "<=", "==", "never", "1", ".5", "x"])


@given(st.one_of(st.text(max_size=80), st.lists(words, max_size=30).map(" ".join)))
def test_any_text_is_parsed_or_rejected(text):
    try:
        assertion = parse_assertion(text)
    except ConfigurationError:
        return
    assert assertion.holds(CALM) in (True, False)
