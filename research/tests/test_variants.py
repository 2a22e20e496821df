"""A variant changes what it names, and fails if that is gone."""

import pytest

import variants
from stormbreak.core import diagnosis
from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from variants import (
    LEFT_OUT,
    UNUSED,
    Patch,
    Variant,
    applied,
    constants,
    every,
    found,
    parameters,
    varied,
)


@pytest.mark.parametrize("variant", every(), ids=lambda variant: f"{variant.name} {variant.change}")
def test_a_variant_changes_something_and_reverts_it(variant):
    before = [getattr(owner, name) for owner, name, _ in variant.patches]
    with applied(variant):
        during = [getattr(owner, name) for owner, name, _ in variant.patches]
    after = [getattr(owner, name) for owner, name, _ in variant.patches]

    assert [value for _, _, value in variant.patches] == during
    assert before == after
    assert all(old != new for old, new in zip(before, during, strict=True))
    assert variant.patches or variant.edit(Policy()) != Policy()


def test_a_variant_of_a_missing_constant_fails():
    with (
        pytest.raises(AttributeError, match="GONE"),
        applied(Variant("diagnosis.GONE", "1 -> 2", (Patch(diagnosis, "GONE", 2),))),
    ):
        pass


def test_every_number_of_the_core_has_a_variant():
    names = {f"{module.__name__.rpartition('.')[2]}.{name}" for module, name in found()}
    varied_ = {variant.name for variant in constants()}

    assert names >= LEFT_OUT.keys()
    assert {
        "diagnosis.TOP_TOTAL",
        "automatic_limit.HOLD",
        "automatic_limit.TAU",
        "random_refusals.ODDS",
    } <= varied_
    used = {name for name in names if name.partition(".")[0] not in UNUSED}
    missing = used - LEFT_OUT.keys() - varied_
    assert not {name for name in missing if _is_number(name)}


def test_variants_that_a_policy_rejects_are_left_out():
    changes = {variant.change for variant in every() if variant.name == "policy.retry.max_attempts"}
    assert changes == {"6 -> 3", "6 -> 12"}

    bare = Policy(retry=RetryPolicy(max_attempts=1))
    changes = {v.change for v in parameters(bare) if v.name == "policy.retry.max_attempts"}
    assert changes == {"1 -> 2"}
    bounded = Policy(limit=AutomaticLimit(headroom_factor=1.0))
    changes = {v.change for v in parameters(bounded) if v.name == "policy.limit.headroom_factor"}
    assert changes == {"1 -> 2"}


def test_variant_names_are_unique():
    keys = [(variant.name, variant.change) for variant in every()]
    assert sorted(set(keys)) == sorted(keys)


@pytest.mark.parametrize(
    ("value", "less", "more"),
    [
        (10, 5, 20),
        (1, 1, 2),
        (4.0, 2.0, 8.0),
        (0.5, 0.25, 1.0),
        (0.75, 0.5, 0.875),
        (1.5, 1.25, 2.0),
    ],
)
def test_varied_gives_a_lower_and_a_higher_value(value, less, more):
    assert (less, more) == varied(value)


def _is_number(name):
    module, constant = name.split(".")
    value = getattr(getattr(variants.stormbreak.core, module), constant)
    return isinstance(value, int | float) and abs(value) != float("inf")
