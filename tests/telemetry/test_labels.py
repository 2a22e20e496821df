"""Label values come from fixed sets, independent of users, tenants and providers."""

import ast
import inspect

from happenings import one_of_each
from hypothesis import given
from hypothesis import strategies as st
from stage import TARGET
from table_test import table_test

from stormbreak.core import admission, hedged_attempt, retry, shadow
from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.cost.spend_gate import SpendAccounts
from stormbreak.telemetry import labels
from stormbreak.telemetry.event_metrics import FAMILIES, updates_of
from stormbreak.telemetry.labels import OTHER, Targets
from stormbreak.types import Target


def words_in(module, function):
    """Every constant string in a function of a module, except its docstring."""
    tree = ast.parse(inspect.getsource(module))
    found = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == function
    )
    statements = found.body[1:] if ast.get_docstring(found) else found.body
    return {
        node.value
        for statement in statements
        for node in ast.walk(statement)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_the_label_sets_equal_the_names_in_core():
    rules = Policy(rate_limit=RateLimitPolicy(rpm=60.0), spend=SpendPolicy(max_usd=1.0))
    engine = Engine(rules, SpendAccounts(lambda *_: None))
    target_state = engine.target_state(Target("p", "m"))
    gates = {
        gate.name for gate in target_state.admission._gates if gate is not target_state.diagnosis
    }

    assert gates | {"queue"} == labels.QUEUE_GATES  # the diagnosis queues no call
    assert words_in(retry, "decide") == labels.RETRY_GATES
    assert words_in(hedged_attempt, "_refusing_gate") & labels.HEDGE_GATES == {
        "attempts",
        "deadline",
        "load",
    }
    assert words_in(admission, "_policy_of") - {"pace"} <= labels.POLICIES
    assert set(shadow._CIRCUIT.values()) <= labels.SHADOW_DECISIONS
    assert words_in(shadow, "compare") == {"retry", "retry_later", "retry_sooner", "not_retry"}


def test_every_event_has_as_many_labels_as_its_metric_and_none_is_other():
    for event in one_of_each():
        for name, values, amount in updates_of(event):
            assert len(values) == len(FAMILIES[name].labels), name
            assert OTHER not in values
            assert amount > 0


def test_every_metric_belongs_to_an_event():
    assert {name for event in one_of_each() for name, _, _ in updates_of(event)} == set(FAMILIES)


@given(st.text(max_size=30), st.sampled_from(one_of_each()))
def test_an_unknown_label_value_becomes_other(word, event):
    changed = {
        field: word
        for field in ("gate", "policy", "held_by", "before", "after", "mechanism", "what", "to")
        if hasattr(event, field)
    }
    known = {*labels.QUEUE_GATES, *labels.RETRY_GATES, *labels.HEDGE_GATES, *labels.POLICIES}
    known |= {*labels.FALLBACK_GATES, *labels.STATES, *labels.MECHANISMS, *labels.SHADOW_DECISIONS}
    known |= {
        *labels.VERDICTS,
        *labels.TOKENS,
        "target",
        "cache",
        "degraded",
        "true",
        "false",
        OTHER,
    }

    for _, values, _ in updates_of(event._replace(**changed)):
        assert set(values) <= known


def test_the_label_of_a_target_has_no_key():
    targets = Targets()

    assert targets.label(Target("acme", "large", "0a1b2c3d")) == "acme/large"
    assert targets.label(Target("acme", "large", "0a1b2c3d", "fast")) == "fast=acme/large"
    assert targets.label(Target("prices", "")) == "prices"


def test_targets_above_the_maximum_become_other():
    targets = Targets(maximum=3)
    many = [Target("acme", f"model-{number}") for number in range(1000)]

    assert [targets.label(target) for target in many[:5]] == [
        "acme/model-0", "acme/model-1", "acme/model-2", OTHER, OTHER,
    ]  # fmt: skip
    assert {targets.label(target) for target in many} == {
        "acme/model-0", "acme/model-1", "acme/model-2", OTHER,
    }  # fmt: skip
    assert targets.label(TARGET._replace(model="model-1")) == "acme/model-1"
    assert len(targets._labels) <= 30


def test_rotating_keys_count_as_one_target():
    targets = Targets(maximum=2)
    for number in range(1000):
        assert targets.label(Target("acme", "large", f"{number:08x}")) == "acme/large"

    assert targets.label(Target("acme", "small")) == "acme/small"
    assert len(targets._labels) <= 20


@table_test("model", ["a\nb", "\x00", "\ud800", "m" * 10_000, 'x"} 1\n# HELP'])
def test_a_target_label_is_printable_and_short(model):
    label = Targets().label(Target("acme", model))

    assert label.isprintable()
    assert len(label) <= 80
    label.encode()
