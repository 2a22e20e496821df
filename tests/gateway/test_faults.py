"""For every fault of a provider a client gets the whole answer or a clear failure, never a false success."""

import asyncio
import json

import pytest
from gateways import running, settings

from stormbreak.provider.fault_kinds import CONDITIONS, Kind
from stormbreak.testing import answer_text

POLICY = """
patience = 5
attempt_timeout = 2
idle_timeout = 1
stall_timeout = 1
cooldown = false
adaptive_rate = false
breaker = "none"
retry_budget = "none"

[retry]
max_attempts = 4

[retry.backoff]
kind = "constant"
initial_delay = 0.01

[limit]
kind = "fixed"
max_in_flight = 1000
"""
UNDETECTABLE = {Kind.STALE, Kind.EARLY_ANSWER}  # good answers to other requests
HEAVY = {Kind.ENDLESS_BODY, Kind.ENDLESS_LINE, Kind.HEARTBEATS, Kind.GZIP_BOMB}
"""They send until a timeout, which is slow; tests/http covers them for the client inside the gateway."""

KINDS = sorted(set(Kind) - set(CONDITIONS) - UNDETECTABLE - HEAVY)
GOOD = {
    Kind.INTERIM, Kind.TWICE, Kind.UNASKED, Kind.QUIET_CLOSE, Kind.CLOSE_RACE, Kind.COMMENTS, Kind.CRLF, Kind.CR,
    Kind.NO_DONE, Kind.BIG_BODY, Kind.TINY_CHUNKS, Kind.SLOW_HEADERS, Kind.SLOW_BODY,
}  # fmt: skip
FINAL = {
    "400", "401", "403", "404", "413", "422", "424", "501", "quota", "billing", "spend_limit", "balance",
    "model_not_found", "context_length", "content_filter", "redirect",
}  # fmt: skip
"""Kinds after which the gateway does not retry."""


_KEYS = {
    Kind.BUDGET: "retry_after = 0.01\n",
    Kind.SLOW_HEADERS: "added_latency = 0.1\n",
    Kind.SLOW_BODY: "added_latency = 0.1\n",
}


def scenario(more=""):
    faults = [f'[[faults]]\nkind = "{kind}"\nmatch = "fault {kind} here"\n{more}' for kind in KINDS]
    faults = [fault + _KEYS.get(kind, "") for kind, fault in zip(KINDS, faults, strict=True)]
    return "[provider]\nservice = 0.001\nvariation = 0\n" + "\n".join(faults)


def payload(kind, **more):
    return {
        "model": "main",
        "messages": [{"role": "user", "content": f"fault {kind} here"}],
        **more,
    }


def text_of(reply):
    """Return the text of a plain answer or a stream, or None for a failure."""
    if reply.status != 200 or reply.ending == "cut":
        return None
    if not reply.headers["content-type"].startswith("text/event-stream"):
        return reply.json["choices"][0]["message"]["content"]
    lines = reply.body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    events = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    return "".join(
        event["choices"][0]["delta"].get("content", "") for event in events if event["choices"]
    )


async def ask_all(path, provider, **more):
    """Send one request for each kind, concurrently; return the replies by kind."""
    async with running(path, settings(provider.base_url, top=POLICY)) as gateway:
        replies = await asyncio.gather(*(gateway.ask(payload(kind, **more)) for kind in KINDS))
        assert gateway.metric("in_flight") == 0
    return dict(zip(KINDS, replies, strict=True))


@pytest.mark.parametrize("stream", [False, True])
async def test_no_fault_is_reported_as_a_success(path, stormbreak_provider, stream):
    more = {"stream": True} if stream else {}
    replies = await ask_all(path, stormbreak_provider(scenario()), **more)
    whole = {kind: answer_text({**payload(kind), "model": "storm-1"}) for kind in KINDS}
    shown = {kind: text_of(reply) for kind, reply in replies.items() if kind != Kind.INVALID_JSON}
    false = {kind for kind, text in shown.items() if text is not None and text != whole[kind]}
    assert false == set()
    assert {kind for kind in GOOD if shown[kind] is None} == set()
    for kind in FINAL:
        assert replies[kind].status >= 400
        assert replies[kind].headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_retry_hides_a_fault_of_the_first_attempt_if_it_is_safe(
    path, stormbreak_provider, stream
):
    more = {"stream": True} if stream else {}
    replies = await ask_all(path, stormbreak_provider(scenario("first_attempts = 1\n")), **more)
    failed = {str(kind) for kind, reply in replies.items() if text_of(reply) is None}
    after_output = {
        "stall", "cut_body", "invalid_json", "error_in_200", "cut_stream", "stream_reset", "short_length",
        "long_length", "gzip_cut",
    }  # fmt: skip
    assert failed - FINAL <= (after_output if stream else set())
