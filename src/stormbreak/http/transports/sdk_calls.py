"""One call for one request: how long it may take, and who sends its attempts."""

import time
from collections.abc import Callable
from math import inf

from stormbreak.core.engine import Engine
from stormbreak.core.fallback import Step
from stormbreak.core.flow import Send
from stormbreak.core.policy import Policy
from stormbreak.drivers.scope import Scope
from stormbreak.http.request_source import BufferedSender, StreamSender
from stormbreak.http.routes import Routes
from stormbreak.http.transports.sdk_call_kinds import Ask, Look
from stormbreak.http.transports.sdk_request import Spans
from stormbreak.llm.models import OPERATIONS
from stormbreak.types import Call, Target


def make_call(
    engine: Engine,
    asked: Ask | Look,
    target: Target,
    *,
    spans: Spans,
    steps: tuple[Step, ...],
    here: Scope,
) -> Call:
    """Make the call. The SDK's own timeout bounds all of a plain call, and of a stream the time to its first output.

    What holds `here` goes before the policy, and extends neither.
    """
    policy, now = engine.policy, time.monotonic()
    bound = asked.bound() if policy.weighs or engine.listeners else None
    whole, read = policy.deadline or inf, spans.read or inf
    deadline = min(whole, read)
    if asked.delivers:  # an answer at hand is no stream
        steps = tuple(step for step in steps if step.targets)
    return Call(
        engine.number(),
        target,
        here.earlier(None if deadline == inf else now + deadline),
        policy.patience,
        policy.priority if here.priority is None else here.priority,
        policy.fail_fast,
        most=here.most,
        tenant=here.tenant or "",
        streams=asked.begins,
        tokens=asked.tokens() if policy.weighs else 0,
        delivers=asked.delivers,
        fallbacks=steps,
        stream_deadline_at=here.earlier(now + whole) if asked.delivers else None,
        labels=here.labels,
        operation=OPERATIONS.get(asked.shape, ""),
        bound=bound,
        unbounded=asked.unbounded() if policy.weighs and bound is None else "",
    )


def make_sender(
    asked: Ask | Look,
    routes: Routes,
    spans: Spans,
    policy: Policy,
    first: Callable[[Send], None],
) -> BufferedSender | StreamSender:
    """Make what sends its attempts; behind the first output of a stream the SDK's own timeout bounds silence."""
    if not asked.delivers:
        return BufferedSender(asked, routes, policy, first)
    spans_given = [span for span in (spans.read, policy.idle_timeout) if span is not None]
    return StreamSender(asked, routes, policy, idle_timeout=min(spans_given, default=None))
