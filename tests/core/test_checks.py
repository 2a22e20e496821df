import pytest

from stormbreak.core.checks import LONGEST_SHOWN, SHORTEST_WINDOW, require, require_window, shown
from stormbreak.errors import ConfigurationError

WINDOWS = [
    (0, "seconds must be positive, got 0"),
    (-1.0, "seconds must be positive, got -1.0"),
    (float("nan"), "seconds must be positive, got nan"),
    (0.99 * SHORTEST_WINDOW, "seconds must be at least 1e-06, got 9.9e-07"),
]


@pytest.mark.parametrize(("seconds", "message"), WINDOWS)
def test_a_window_that_is_none_is_refused(seconds, message):
    with pytest.raises(ConfigurationError, match=f"^{message}$"):
        require_window("seconds", seconds)


@pytest.mark.parametrize("seconds", [1e-6, 0.5, 1, 1e9])
def test_others_are_not(seconds):
    require_window("seconds", seconds)


def test_a_rule_that_holds_says_nothing_and_one_that_does_not_the_value():
    require(True, "size must be 1", 2)
    with pytest.raises(ConfigurationError, match=r"^size must be 1, got 2$"):
        require(False, "size must be 1", 2)


def test_a_value_is_not_shown_at_length():
    assert LONGEST_SHOWN == 100
    assert shown("x" * 100) == "x" * 100
    assert shown("x" * 101) == "x" * 100 + "..."
    assert shown(10**5000) == "a number of thousands of digits"
