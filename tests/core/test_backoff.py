import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.core.backoff import Backoff
from stormbreak.errors import ConfigurationError

TABLE = [
    # rule, chance, delays before retries 1, 2, 3, 4, 5
    (Backoff(kind="constant", initial_delay=3.0), 0.9, [3.0, 3.0, 3.0, 3.0, 3.0]),
    (Backoff(kind="linear", initial_delay=2.0, max_delay=7.0), 0.9, [2.0, 4.0, 6.0, 7.0, 7.0]),
    (
        Backoff(kind="exponential", initial_delay=1.0, factor=3.0, max_delay=20.0),
        0.9,
        [1.0, 3.0, 9.0, 20.0, 20.0],
    ),
    (
        Backoff(kind="proportional_jitter", initial_delay=1.0, max_delay=8.0, jitter=0.5),
        0.0,
        [0.5, 1.0, 2.0, 4.0, 4.0],
    ),
    (
        Backoff(kind="proportional_jitter", initial_delay=1.0, max_delay=8.0, jitter=0.5),
        0.75,
        [1.25, 2.5, 5.0, 10.0, 10.0],
    ),
    (
        Backoff(kind="proportional_jitter", initial_delay=1.0, jitter=1.0, min_delay=0.7),
        0.0,
        [0.7, 0.7, 0.7, 0.7, 0.7],
    ),
    (Backoff(initial_delay=1.0, max_delay=8.0), 0.25, [0.25, 0.5, 1.0, 2.0, 2.0]),
    (
        Backoff(kind="equal_jitter", initial_delay=1.0, max_delay=8.0),
        0.5,
        [0.75, 1.5, 3.0, 6.0, 6.0],
    ),
    (
        Backoff(kind="decorrelated_jitter", initial_delay=1.0, max_delay=8.0),
        0.0,
        [1.0, 1.0, 1.0, 1.0, 1.0],
    ),
    (
        Backoff(kind="decorrelated_jitter", initial_delay=1.0, max_delay=8.0),
        0.5,
        [2.0, 3.5, 4.5, 4.5, 4.5],
    ),
]


@table_test(("rule", "chance", "delays"), TABLE)
def test_each_kind_has_its_delays(rule, chance, delays):
    previous, given = 0.0, []
    for retry in range(1, 6):
        previous = rule.delay(retry, chance, previous)
        given.append(previous)
    assert delays == given


@given(
    base=st.floats(0.001, 100.0),
    factor=st.floats(1.0, 10.0),
    retry=st.integers(1, 10_000),
    chance=st.floats(0.0, 1.0, exclude_max=True),
)
def test_jittered_delays_stay_within_bounds_of_the_exponential(base, factor, retry, chance):
    cap = 100.0
    plain = Backoff(kind="exponential", initial_delay=base, factor=factor, max_delay=cap).delay(
        retry, chance
    )
    full = Backoff(initial_delay=base, factor=factor, max_delay=cap).delay(retry, chance)
    moved = Backoff(
        kind="proportional_jitter", initial_delay=base, factor=factor, max_delay=cap, min_delay=0.0
    ).delay(retry, chance)

    assert base <= plain <= cap
    assert 0.0 <= full <= plain
    assert 0.7 * plain - 1e-9 <= moved <= 1.3 * plain + 1e-9


BAD = [
    ("constant", {"initial_delay": -1.0}, "initial_delay must not be negative, got -1.0"),
    ("linear", {"initial_delay": 0.0}, "initial_delay must be positive, got 0.0"),
    (
        "exponential",
        {"initial_delay": 2.0, "max_delay": 1.0},
        "max_delay must not be below initial_delay, got 1.0",
    ),
    ("full_jitter", {"factor": 0.5}, "factor must be at least 1, got 0.5"),
    ("proportional_jitter", {"jitter": 1.5}, r"jitter must lie in \[0, 1\], got 1.5"),
    ("proportional_jitter", {"min_delay": -0.1}, "min_delay must not be negative, got -0.1"),
    ("equal_jitter", {"max_delay": 0.5}, "max_delay must not be below initial_delay, got 0.5"),
    ("decorrelated_jitter", {"factor": 0.9}, "factor must be at least 1, got 0.9"),
    ("constant", {"factor": 2.0}, "factor means nothing for the kind constant, got 2.0"),
    ("full_jitter", {"jitter": 0.2}, "jitter means nothing for the kind full_jitter, got 0.2"),
    ("vegas", {}, "kind must be 'constant' or "),
    ("linear", {"initial_delay": float("nan")}, "initial_delay must be positive, got nan"),
]


@table_test(("kind", "values", "message"), BAD)
def test_an_invalid_value_is_named(kind, values, message):
    with pytest.raises(ConfigurationError, match=message):
        Backoff(kind=kind, **values)


@table_test("kind", ["proportional_jitter", "decorrelated_jitter"])
def test_jitter_kinds_need_an_initial_delay(kind):
    with pytest.raises(ConfigurationError, match="initial_delay must be positive, got 0"):
        Backoff(kind=kind, initial_delay=0.0)


POSSIBLE = [
    Backoff(kind="constant", initial_delay=0.0), Backoff(kind="linear", initial_delay=2.0, max_delay=2.0), Backoff(kind="proportional_jitter", jitter=0.0), Backoff(kind="decorrelated_jitter", factor=1.0),
]  # fmt: skip


@table_test("rule", POSSIBLE)
def test_extreme_values_are_valid(rule):
    assert rule.delay(1, 0.9) >= 0.0


DEFAULTS = [
    (Backoff(kind="constant"), Backoff(kind="constant", initial_delay=1.0)),
    (Backoff(kind="linear"), Backoff(kind="linear", initial_delay=1.0, max_delay=60.0)),
    (
        Backoff(kind="exponential"),
        Backoff(kind="exponential", initial_delay=1.0, factor=2.0, max_delay=60.0),
    ),
    (
        Backoff(kind="proportional_jitter"),
        Backoff(
            kind="proportional_jitter",
            initial_delay=1.0,
            factor=2.0,
            max_delay=60.0,
            jitter=0.3,
            min_delay=0.1,
        ),
    ),
    (Backoff(), Backoff(initial_delay=1.0, factor=2.0, max_delay=60.0)),
    (
        Backoff(kind="equal_jitter"),
        Backoff(kind="equal_jitter", initial_delay=1.0, factor=2.0, max_delay=60.0),
    ),
    (
        Backoff(kind="decorrelated_jitter"),
        Backoff(kind="decorrelated_jitter", initial_delay=1.0, factor=3.0, max_delay=60.0),
    ),
]


@table_test(("bare", "spelled_out"), DEFAULTS)
def test_each_kind_has_its_defaults(bare, spelled_out):
    assert bare == spelled_out


def test_decorrelated_jitter_starts_at_the_initial_delay():
    assert (
        Backoff(kind="decorrelated_jitter", initial_delay=0.5).delay(1, 0.5) == 1.0
    )  # half way from 0.5 to 1.5
