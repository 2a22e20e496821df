"""A policy file becomes a policy."""

import pytest
from table_test import table_test

from stormbreak.config import load_policy, resolve_policy
from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.presets import ARTICLE, BATCH, INTERACTIVE, OFF, PRESETS
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.shadow import ShadowPolicy
from stormbreak.core.trip import ConsecutiveFailures, FailureRate
from stormbreak.errors import ConfigurationError
from stormbreak.types import Priority, Verdict


@pytest.fixture
def load(tmp_path):
    def load(text):
        path = tmp_path / "policy.toml"
        path.write_text(text)
        return load_policy(path)

    return load


def test_an_empty_file_is_the_default_policy(load):
    assert load("") == Policy() == INTERACTIVE


def test_a_file_can_set_every_part_of_a_policy(load):
    policy = load(
        """
        preset = "batch"
        deadline = 600
        patience = "none"
        fail_fast = true
        cooldown = false
        priority = "background"
        failures = ["throttled"]
        retry_budget = "none"
        [retry]
        max_attempts = 3
        longer_backoff_on = [504, 529]
        [retry.backoff]
        kind = "linear"
        initial_delay = 2
        [breaker]
        open_duration = 7.5
        [breaker.trip]
        kind = "consecutive"
        [limit]
        kind = "fixed"
        max_in_flight = 9
        [rate_limit]
        rpm = 90
        tpm = 4000.5
        """
    )
    assert policy == Policy(
        deadline=600,
        patience=None,
        fail_fast=True,
        cooldown=False,
        priority=Priority.BACKGROUND,
        failures=(Verdict.THROTTLED,),
        retry_budget=None,
        retry=RetryPolicy(
            max_attempts=3,
            longer_backoff_on=(504, 529),
            backoff=Backoff(kind="linear", initial_delay=2),
        ),
        breaker=BreakerPolicy(open_duration=7.5, trip=ConsecutiveFailures()),
        limit=FixedLimit(max_in_flight=9),
        rate_limit=RateLimitPolicy(rpm=90, tpm=4000.5, learn_from_headers=True),
        queue=BATCH.queue,
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_file_may_be_just_a_preset(load, name):
    assert load(f'preset = "{name}"') == PRESETS[name]


def test_changing_part_of_a_preset_keeps_the_rest(load):
    policy = load('preset = "article"\n[retry.backoff]\nmax_delay = 30\n[breaker]\nprobes = 4')
    assert policy.retry.backoff == Backoff(
        kind="proportional_jitter", initial_delay=1, factor=2, max_delay=30, jitter=0.3
    )
    assert policy.retry.longer_backoff_on == ARTICLE.retry.longer_backoff_on
    assert policy.breaker.probes == 4
    assert policy.breaker.trip == ARTICLE.breaker.trip
    assert policy.limit == ARTICLE.limit


def test_naming_the_kind_a_preset_has_already_keeps_the_rest(load):
    assert (
        load('preset = "article"\n[limit]\nkind = "fixed"').limit == ARTICLE.limit != FixedLimit()
    )


def test_the_limit_is_automatic_or_a_number(load):
    assert load("").limit == AutomaticLimit()
    assert load("[limit]\nmax_in_flight = 9").limit == AutomaticLimit(max_in_flight=9)
    assert load('[limit]\nkind = "fixed"\nmax_in_flight = 9').limit == FixedLimit(max_in_flight=9)
    assert load('preset = "article"\n[limit]\nkind = "automatic"').limit == AutomaticLimit()
    assert load("adaptive_rate = false") == Policy(adaptive_rate=False)


def test_a_changed_kind_starts_from_its_own_defaults(load):
    policy = load(
        'preset = "article"\n[retry.backoff]\nkind = "full_jitter"\n[breaker.trip]\nkind = "failure_rate"'
    )
    assert policy.retry.backoff == Backoff()
    assert policy.breaker.trip == FailureRate()
    assert policy.breaker.open_duration == ARTICLE.breaker.open_duration


def test_a_part_that_the_preset_leaves_out_starts_from_the_default(load):
    policy = load('preset = "off"\n[breaker]\nprobes = 5')
    assert policy.breaker == BreakerPolicy(probes=5)
    assert policy.retry_budget is None


def test_a_file_sets_weights_of_tenants(load):
    policy = load('[queue]\nmin_share = 0.1\n[queue.tenant_weights]\nshop = 3\n"Œuvres & co" = 0.5')
    assert policy.queue == QueuePolicy(
        min_share=0.1, tenant_weights={"shop": 3, "Œuvres & co": 0.5}
    )


def test_a_shadow_policy_has_the_same_tables(load):
    policy = load(
        '[shadow.breaker]\nopen_duration = 9\n[shadow.limit]\nkind = "aimd"\ninitial_in_flight = 5'
    )
    shadow = ShadowPolicy(
        breaker=BreakerPolicy(open_duration=9), limit=AimdLimit(initial_in_flight=5)
    )
    assert policy == Policy(shadow=shadow)


def test_none_leaves_out_a_part_of_a_policy(load):
    assert load('breaker = "none"\nretry_budget = "none"\ndeadline = "none"') == Policy(
        breaker=None, retry_budget=None, deadline=None
    )


def test_loading_changes_no_preset(load):
    load('preset = "batch"\n[retry]\nmax_attempts = 1\n[retry.backoff]\ninitial_delay = 9')
    assert BATCH.retry == RetryPolicy()


def test_a_byte_order_mark_is_accepted(tmp_path):
    (tmp_path / "p.toml").write_bytes(b"\xef\xbb\xbfdeadline = 5")
    assert load_policy(tmp_path / "p.toml").deadline == 5


def test_a_preset_is_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "off").write_text("deadline = 1")
    assert resolve_policy("off") is OFF
    assert resolve_policy("./off").deadline == 1


def test_a_file_is_found_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("deadline = 2")
    (tmp_path / "mine.toml").write_text("deadline = 3")
    assert resolve_policy("mine").deadline == 2
    assert resolve_policy("mine.toml").deadline == 3


def test_an_unknown_policy_name_lists_the_presets():
    with pytest.raises(ConfigurationError) as caught:
        resolve_policy("bacth")
    assert (
        str(caught.value)
        == "'bacth' is neither a preset (interactive, batch, article, off) nor a file"
    )


@table_test(
    "literal",
    [
        "sk-proj-CANARYCANARY1234",
        "Zk39fjA0qLm2Xw7RtY5b",
        "sk-proj-abcdef/CANARYCANARY1234",
        "x/hf_CANARYCANARY12",
    ],
)
def test_a_key_where_a_policy_is_expected_is_not_echoed(literal):
    with pytest.raises(ConfigurationError, match="looks like a key, not like") as caught:
        resolve_policy(literal)
    assert "CANARY" not in str(caught.value)
    assert literal not in str(caught.value)
