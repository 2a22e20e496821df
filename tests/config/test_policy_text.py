"""A policy in words, and the delays of its backoff."""

from dataclasses import fields, replace
from string import Formatter
from typing import get_args, get_origin, get_type_hints

import pytest
from table_test import table_test

from stormbreak.config import account, delay_table, policy_summary
from stormbreak.config.policy_summary import _SAID, ARTICLE, TEXTS, delays, told
from stormbreak.core.backoff import FIELDS, Backoff
from stormbreak.core.concurrency_limit import AimdLimit
from stormbreak.core.fallback import Place, ToTargets
from stormbreak.core.policy import Policy
from stormbreak.core.presets import ARTICLE as ARTICLE_PRESET
from stormbreak.core.presets import PRESETS
from stormbreak.core.queue import QueuePolicy
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


def test_every_kind_of_part_has_words():
    assert set(TEXTS) == (parts() - {Backoff}) | {*FIELDS}


@table_test("part", sorted(parts(), key=lambda part: part.__name__))
def test_every_field_has_a_place_in_the_words(part):
    """A new field fails here until config/policy_summary.py says it."""
    for text, names in texts(part):
        places = [(name, spec) for _, name, spec, _ in Formatter().parse(text) if name]
        assert names == {name for name, _ in places}
        for _, spec in places:
            how = spec.partition("|")[0].partition(" ")[0]
            assert how in {*_SAID, "part", "either"}


@table_test("part", sorted(parts(), key=lambda part: part.__name__))
def test_every_part_can_be_told(part):
    text = told(SAMPLES.get(part) or part())
    assert "{" not in text
    assert "None" not in text


@pytest.mark.parametrize("name", PRESETS)
def test_statements_are_lines_that_end(name):
    lines = list(account(PRESETS[name]))
    assert {line[-1] for line in lines} <= {".", ":"}
    assert all(line[0].isupper() or line[0].isdigit() for line in lines)


def test_the_article_in_words():
    said = " ".join(account(ARTICLE_PRESET))
    for words in [
        "A call ends after any time at all, and waits unserved for 5 minutes.",
        "A call is sent 6 times at most",
        "Retries come after 1 s, then 2 times the delay before, at most 1 minute; moved by chance by up to 30 %",
        "Retries are free.",
        "The circuit opens after 5 failures in a row.",
        "The breaker also counts as failures: throttled; and not at all: none.",
        "At most 10 attempts to one target may be in flight.",
        "one step ahead: 504.",
    ]:
        assert words in said


def test_what_changes_is_said():
    queue = QueuePolicy(min_share=0.1, tenant_weights={"shop": 3})
    policy = Policy(
        limit=AimdLimit(slow_call_threshold=90),
        queue=queue,
        failures=(Verdict.TIMEOUT, Verdict.AUTH),
    )
    said = " ".join(account(replace(policy, shadow=policy.shadow_overrides())))
    for words in [
        "an answer is late after 90 s.",
        "gets 10 % of what is served",
        "where not 1: shop 3.",
        "timeout and auth",
        "In the shadow, reported and not obeyed:",
    ]:
        assert words in said
    assert "Nothing decides in the shadow." in list(account(policy))


def test_what_is_not_there_is_not_said_to_be():
    said = " ".join(account(PRESETS["interactive"]))
    assert (
        "Per minute any number of requests and any number of tokens may go to one target;"
        " where a number bounds them, that of 1 s may go at once." in said
    )
    still = " ".join(account(ARTICLE_PRESET))
    assert (
        "It stays open for 30 s, not moved by chance; after each failed trial as long again"
        in still
    )
    stretched = Policy(retry=RetryPolicy(retry_after_jitter=0))
    assert "A wait that the server names is not stretched by chance;" in " ".join(
        account(stretched)
    )
    for name in PRESETS:
        assert " 0 %" not in " ".join(account(PRESETS[name]))
        assert "e+" not in " ".join(account(PRESETS[name]))


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
