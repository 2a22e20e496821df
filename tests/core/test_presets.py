import pytest

from stormbreak.core.policy import Policy
from stormbreak.core.presets import ARTICLE, BATCH, INTERACTIVE, OFF, for_batch, preset
from stormbreak.errors import ConfigurationError
from stormbreak.types import TREATMENTS, Tally, Verdict


def test_by_name():
    names = ("interactive", "batch", "article", "off")

    assert [preset(name) for name in names] == [INTERACTIVE, BATCH, ARTICLE, OFF]


def test_an_unknown_name_is_told_with_those_that_exist():
    with pytest.raises(ConfigurationError, match="'speedy'; there are: interactive, batch"):
        preset("speedy")


def test_a_batch_waits_where_a_caller_fails():
    waiting = for_batch(INTERACTIVE)

    assert (waiting.fail_fast, waiting.patience) == (False, None)
    assert for_batch(ARTICLE).attempt_timeout == 60.0


def test_verdicts_may_be_counted_as_failures():
    treatments = Policy(failures=(Verdict.THROTTLED,)).treatments

    assert treatments[Verdict.THROTTLED].tally is Tally.FAILURE
    assert {**treatments, Verdict.THROTTLED: None} == {**TREATMENTS, Verdict.THROTTLED: None}


@pytest.mark.parametrize(
    "name", ["deadline", "patience", "attempt_timeout", "idle_timeout", "stall_timeout"]
)
def test_impossible_values_are_named(name):
    with pytest.raises(ConfigurationError, match=f"{name} must be positive, got 0"):
        Policy(**{name: 0})


def test_off_holds_nobody_back():
    assert not any(treatment.cools for treatment in OFF.treatments.values())
    assert any(treatment.cools for treatment in INTERACTIVE.treatments.values())
