from happenings import one_of_each
from stage import TARGET
from table_test import table_test

from stormbreak.core.explain import line_for
from stormbreak.escape import LABEL, shown
from stormbreak.events import CallEnded, CallRejected, CircuitChanged, RetryPlanned, RetryRefused
from stormbreak.telemetry.event_text import describe
from stormbreak.types import Target, Verdict


def test_describe_gives_each_event_a_line():
    assert [describe(event) for event in one_of_each()] == [
        "call to acme/large: started with 1 label(s)",
        "call to acme/large: queued, held by limit",
        "attempt 1 at acme/large: sent",
        "attempt 1 at acme/large: overloaded, status 503, busy, cut after 812 bytes after 1.2 s",
        "attempt 1 at acme/large: first output after 0.5 s",
        "attempt 2 at acme/large: beside the one before, unanswered after 1.5 s",
        "attempt 1 at acme/large: slow, but not hedged: load",
        "attempt 1 at acme/large: overtaken after 1.5 s",
        "attempt 1 at acme/large: overloaded, again after 2.5 s, paid, may have been processed and billed",
        "attempt 1 at acme/large: overloaded, no retry: budget",
        "fell back from acme/large to acme/small: overloaded",
        "no fallback from acme/large to cache: nothing found",
        "rejected by breaker at acme/large: the circuit is open; come back in 4.0 s",
        "call to acme/large: overloaded after 2 attempt(s), 2.5 s waiting, may have been processed and billed",
        "call to acme/large: cancelled with an attempt in flight",
        "circuit of acme/large: closed to open for 5.0 s",
        "cooldown of acme/large: no calls for 12.0 s",
        "spending, last at acme/large: 80 % of 50 USD; resets in 60 s",
        "shadow of acme/large: breaker would open for 5.0 s",
    ]


def test_describe_omits_unknown_fields():
    assert [
        describe(event)
        for event in (
            RetryPlanned(3.0, 1, TARGET, 1, 3.0, True),
            RetryRefused(3.0, 1, TARGET, 1, "verdict"),
            CallRejected(3.0, 1, TARGET, "queue", "9 calls are waiting", None),
            CallEnded(3.0, 1, TARGET, Verdict.OK, 1, 0.0),
            CircuitChanged(3.0, TARGET, "half_open", "closed", None),
        )
    ] == [
        "attempt 1 at acme/large: again after 0.0 s, free",
        "attempt 1 at acme/large: no retry: verdict",
        "rejected by queue at acme/large: 9 calls are waiting",
        "call to acme/large: ok after 1 attempt(s), 0.0 s waiting",
        "circuit of acme/large: half_open to closed",
    ]


def test_describe_starts_with_the_text_of_line_for():
    noted = [event for event in one_of_each() if line_for(event)]

    assert len(noted) == 6
    assert all(describe(event).startswith(line_for(event)) for event in noted)


HOSTILE = [
    "two\nlines",
    "\x1b[31mred\x1b[0m",
    "\r\x00\u2028\u202e",
    "m" * 10_000,
    "sk-" + "a1B2" * 8,
    "x" * 75 + " sk-" + "a1B2" * 8,
]


@table_test("name", HOSTILE)
def test_describe_escapes_cuts_and_redacts_names(name):
    for target in (Target("p", name), Target(name, "m"), Target("p", "m", "", name)):
        for event in one_of_each(target, other=str(target)):
            line = describe(event)
            assert line.isprintable()
            assert len(line) < 2 * (LABEL + 100)
            assert "a1B2" not in line


def test_a_normal_name_is_unchanged():
    for name in ("gpt-4.1-mini-2025-04-14", "meta/llama-3", "modèle", "m" * LABEL):
        assert shown(name, LABEL) == name
    assert shown("m" * (LABEL + 1), LABEL) == "m" * (LABEL - 1) + "…"
