"""A policy in sentences, and the delays of its backoff."""

from dataclasses import fields, replace
from string import Formatter
from typing import get_args, get_origin, get_type_hints

import pytest
from table_test import table_test

from stormbreak.config import delay_table, policy_summary, summarise
from stormbreak.config.policy_summary import ARTICLE, FORMATS, TEXTS, delays, text_of
from stormbreak.core.backoff import FIELDS, Backoff
from stormbreak.core.concurrency_limit import AimdLimit
from stormbreak.core.fallback import Place, ToTargets
from stormbreak.core.policy import Policy
from stormbreak.core.presets import ARTICLE as ARTICLE_PRESET
from stormbreak.core.presets import PRESETS
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.toml_values import parts_of
from stormbreak.types import Verdict


def parts(part=Policy):
    """Every value that a policy can be made of."""
    found, todo = set(), [part]
    while todo:
        part = todo.pop()
        found.add(part)
        for hint in get_type_hints(part).values():
            inner = get_args(hint)[0] if get_origin(hint) is tuple else hint
            todo += [below for below in parts_of(inner) if below not in found]
    return found


PLACE = Place(model="large")
SAMPLES = {Place: PLACE, ToTargets: ToTargets(targets=(PLACE,))}
"""Of those that cannot be made out of nothing."""


def texts(part):
    """The text of a part, and its fields; those of a backoff, each with what its kind uses."""
    if part is Backoff:
        return [(TEXTS[kind], {*names}) for kind, names in FIELDS.items()]
    return [(TEXTS[part], {field.name for field in fields(part)} - {"kind"})]


def test_every_kind_of_part_has_a_template():
    assert set(TEXTS) == (parts() - {Backoff}) | {*FIELDS}


@table_test("part", sorted(parts(), key=lambda part: part.__name__))
def test_every_field_is_in_its_template(part):
    """A new field fails here until config/policy_summary.py has it."""
    for text, names in texts(part):
        places = [(name, spec) for _, name, spec, _ in Formatter().parse(text) if name]
        assert names == {name for name, _ in places}
        for _, spec in places:
            how = spec.partition("|")[0].partition(" ")[0]
            assert how in {*FORMATS, "part", "either"}


@table_test("part", sorted(parts(), key=lambda part: part.__name__))
def test_every_part_has_a_summary(part):
    text = text_of(SAMPLES.get(part) or part())
    assert "{" not in text
    assert "None" not in text


@pytest.mark.parametrize("name", PRESETS)
def test_statements_are_lines_that_end(name):
    lines = list(summarise(PRESETS[name]))
    assert {line[-1] for line in lines} <= {".", ":"}
    assert all(line[0].isupper() or line[0].isdigit() for line in lines)


def test_the_summary_of_the_article():
    said = " ".join(summarise(ARTICLE_PRESET))
    for words in [
        "Deadline of a call: none. Maximum time in queue, cooldown and backoff: 5 minutes.",
        "At most 6 attempts per call",
        "Delay before the first retry: 1 s, then 2 times the delay before, at most 1 minute; with up to 30 % of jitter",
        "Retries are free.",
        "The circuit opens after 5 failures in a row.",
        "The breaker also counts as failures: throttled; it ignores: none.",
        "Maximum attempts in flight to one target: 10.",
        "one step longer after these statuses: 504.",
    ]:
        assert words in said


def test_the_summary_shows_changed_values():
    queue = QueuePolicy(min_share=0.1, tenant_weights={"shop": 3})
    policy = Policy(
        limit=AimdLimit(slow_call_threshold=90),
        queue=queue,
        failures=(Verdict.TIMEOUT, Verdict.AUTH),
    )
    said = " ".join(summarise(replace(policy, shadow=policy.shadow_overrides())))
    for words in [
        "an answer is late after 90 s.",
        "gets at least 10 % of the service",
        "if not 1: shop 3.",
        "timeout and auth",
        "The shadow policy is reported and not applied:",
    ]:
        assert words in said
    assert "There is no shadow policy." in list(summarise(policy))


def test_the_summary_of_absent_values():
    said = " ".join(summarise(PRESETS["interactive"]))
    assert (
        "Rate limit of a target per minute: any number of requests and any number of tokens;"
        " a burst may use those of 1 s at once." in said
    )
    still = " ".join(summarise(ARTICLE_PRESET))
    assert (
        "It stays open for 30 s, without jitter; after each failed trial as long as before" in still
    )
    stretched = Policy(retry=RetryPolicy(retry_after_jitter=0))
    assert "A Retry-After is followed without jitter;" in " ".join(summarise(stretched))
    for name in PRESETS:
        assert " 0 %" not in " ".join(summarise(PRESETS[name]))
        assert "e+" not in " ".join(summarise(PRESETS[name]))


@table_test(
    ("span", "said"), [(1.5, "1.5 s"), (60, "1 minute"), (90, "90 s"), (900.0, "15 minutes"), (7200, "2 hours"), (0, "0 s")]
)  # fmt: skip
def test_spans(span, said):
    assert said == policy_summary.seconds(span)


def test_counts_and_lists():
    assert policy_summary.times(1, "retry") == "1 retry"
    assert policy_summary.times(2, "retry") == "2 retries"
    assert policy_summary.times(1_000_000, "call") == "1,000,000 calls"
    assert policy_summary.times(2e6, "token") == "2,000,000 tokens"
    assert (policy_summary.plain(2**28), policy_summary.plain(0.1)) == ("268,435,456", "0.1")
    assert policy_summary.several([]) == "none"
    assert policy_summary.several([1, 2, 3]) == "1, 2 and 3"


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        (Backoff(kind="linear"), ARTICLE["linear"]),
        (Backoff(kind="exponential"), ARTICLE["exponential"]),
        (Backoff(max_delay=3), ("0-1", "0-2", "0-3", "0-3")),
        (Backoff(kind="decorrelated_jitter"), ("1-3", "1-9", "1-27", "1-60")),
        (ARTICLE_PRESET.retry.backoff, ("0.7-1.3", "1.4-2.6", "2.8-5.2", "5.6-10.4")),
    ],
)
def test_delays(backoff, expected):
    assert expected == delays(backoff)


def test_the_table_has_the_policy_every_kind_and_the_article():
    head, own, *kinds = delay_table(Backoff(initial_delay=2))
    assert head.split() == [
        "seconds",
        "before",
        "retry",
        "1",
        "retry",
        "2",
        "retry",
        "3",
        "retry",
        "4",
        "in",
        "the",
        "article",
    ]
    assert own.split() == ["here:", "full_jitter", "0-2", "0-4", "0-8", "0-16", "-"]
    assert len(kinds) == 7
    (decorrelated,) = (line for line in kinds if line.startswith("decorrelated"))
    assert decorrelated.endswith("1-3  3-9  1-3  3-9")
