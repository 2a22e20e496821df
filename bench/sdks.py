"""The SDKs as users have them, over their own transport and over ours: what the benchmarks of the front doors ask.

They come in pairs, its own first.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import anthropic
import httpx2
import openai

from rounds import Figure, share
from stormbreak import Policy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.httpx2 import AsyncTransport, Transport

MODEL = "storm-1"
SAY = [{"role": "user", "content": "Summarise the document about tides, harbours and the moon."}]
_CLIENTS: Any = {
    ("openai", False): openai.AsyncOpenAI,
    ("anthropic", False): anthropic.AsyncAnthropic,
    ("openai", True): openai.OpenAI,
    ("anthropic", True): anthropic.Anthropic,
}


class Subject(NamedTuple):
    """One SDK over one transport; what `ask` and `close` return is to be awaited, unless it blocks."""

    name: str
    blocks: bool
    ask: Callable[..., Any]
    close: Callable[[], Any]


def subjects(base_url: str, most: int) -> list[Subject]:
    """All of them, for `most` calls at a time."""
    policy = Policy(limit=FixedLimit(max_in_flight=most))
    limits = httpx2.Limits(max_connections=most, max_keepalive_connections=most)
    found: list[Subject] = []
    for (sdk, blocks), client in _CLIENTS.items():
        http: Any = httpx2.Client if blocks else httpx2.AsyncClient
        ours = Transport(policy) if blocks else AsyncTransport(policy)
        under: dict[str, Any]
        for name, under in (("its own", {"limits": limits}), ("ours", {"transport": ours})):
            made = client(
                base_url=base_url if sdk == "openai" else base_url.removesuffix("/v1"),
                api_key="bench",
                http_client=http(timeout=600.0, **under),
            )
            way = "sync" if blocks else "async"
            found.append(Subject(f"{sdk}, {way}, {name}", blocks, _ask(sdk, made), made.close))
    return found


def _ask(sdk: str, client: Any) -> Callable[..., Any]:
    if sdk == "anthropic":
        return partial(client.messages.create, model=MODEL, messages=SAY, max_tokens=100)
    return partial(client.chat.completions.create, model=MODEL, messages=SAY)


def compared(
    found: Sequence[Subject], cpu: Sequence[Sequence[float]], what: str, goal: str, blocking: str
) -> list[Figure]:
    """CPU us a call or a chunk of each, and each of ours beside its pair; `blocking` is the goal of those that block."""
    figures = [
        Figure(f"{subject.name}, CPU a {what}", "us", tuple(taken))
        for subject, taken in zip(found, cpu, strict=True)
    ]
    pairs = zip(found[1::2], cpu[1::2], cpu[::2], strict=True)
    return figures + [
        Figure(
            f"{subject.name}, beside its own",
            "%",
            share(ours, own),
            blocking if subject.blocks else goal,
        )
        for subject, ours, own in pairs
    ]


async def close(found: Sequence[Subject]) -> None:
    """Close their connections."""
    for subject in found:
        closing = subject.close()
        if not subject.blocks:
            await closing
