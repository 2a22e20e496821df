"""Answers without a target: cached ones, and the user's degraded ones.

A cache in a file is read and written in threads, so that no loop waits for a disk. No failure here fails a call.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec

from stormbreak.cache.memory import Cache, MemoryCache, cache_key
from stormbreak.core.fallback_policy import CachePolicy, ToCache
from stormbreak.core.flow import Ask
from stormbreak.core.policy import Policy
from stormbreak.drivers.blocking import blocks_here, foreign
from stormbreak.http.response import Response
from stormbreak.llm.endpoints import Shape
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.llm.response_verdict import read_answer
from stormbreak.types import CACHE, TARGET, CallResult, Outcome, Verdict

DegradedAnswer: TypeAlias = str | Mapping[str, Any] | None
Degraded: TypeAlias = Callable[
    [Mapping[str, Any], Outcome], DegradedAnswer | Awaitable[DegradedAnswer]
]
"""Makes an answer from the payload of a call and its failure: a text or a whole body; None: no answer."""

_FUNCTION, _CACHE = "the function for degraded answers", "the answer cache"

_MAY_BE_FILES = (Shape.JSON, Shape.RESOURCE)

_log = logging.getLogger("stormbreak")


class LocalRequest(NamedTuple):
    """The input of a local answer. Its repr shows neither key nor prompt."""

    base_url: str
    endpoint: str
    shape: Shape
    body: bytes
    model: str
    api_key: str | None
    choices: int = 1
    inputs: int | None = None

    def cache_key(self, secret: bytes) -> bytes | None:
        """Return the key of its answer in a cache; None if it is not cached."""
        return cache_key(secret, self.base_url, self.endpoint, self.body, self.api_key)

    def __repr__(self) -> str:
        return f"LocalRequest({self.endpoint!r}, {len(self.body)} bytes)"


def _opened(policy: CachePolicy) -> Cache:
    """Open the cache; raise ConfigurationError if its file cannot be used."""
    if policy.path is None:
        return MemoryCache(policy)
    from stormbreak.cache.sqlite import SqliteCache  # noqa: PLC0415 - SQLite only when needed

    return SqliteCache(policy.path, policy)


class LocalAnswers:
    """The cache and the degraded answers of one client, if its policy has a fallback to them."""

    def __init__(self, policy: Policy, degraded: Degraded | None) -> None:
        self.caches = any(isinstance(rule, ToCache) for rule in policy.fallback)
        self._cache = _opened(policy.cache) if self.caches else None
        self._degraded = degraded
        self._writing: set[asyncio.Future[None]] = set()
        self._warned: set[str] = set()

    async def find(self, ask: Ask, request: LocalRequest) -> Outcome | None:
        is_cached = ask.step.source == CACHE
        try:
            body = await (self._cached(request) if is_cached else self._degrade(ask, request))
            return None if body is None else _outcome(body, request)
        except Exception as error:  # noqa: BLE001 - a fallback must not make it worse
            self._warn_once(_CACHE if is_cached else _FUNCTION, error)
            return None

    def store(self, request: LocalRequest, ended: CallResult) -> None:
        """Cache the answer of a call soon, if it is a success of its first target."""
        if self._cache is None or ended.outcome.verdict is not Verdict.OK or ended.source != TARGET:
            return
        try:
            self._store(self._cache, request, ended.outcome.value.body)
        except Exception as error:  # noqa: BLE001 - such as no free thread: the call has its answer
            self._warn_once(_CACHE, error)

    def _store(self, cache: Cache, request: LocalRequest, body: bytes) -> None:
        key = request.cache_key(cache.secret)
        if key is None or not _is_readable_again(body, request):
            return
        if not cache.blocks or blocks_here():
            cache.put(key, body)
            return
        loop = asyncio.get_running_loop()
        writing = loop.run_in_executor(None, cache.put, key, body)
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)

    async def close(self) -> None:
        """Wait for the cache writes of the running loop. The cache stays open: other loops may use it."""
        if blocks_here():
            return
        here = asyncio.get_running_loop()
        writing = [each for each in tuple(self._writing) if each.get_loop() is here]
        if writing:
            await asyncio.wait(writing)

    async def _cached(self, request: LocalRequest) -> bytes | None:
        if self._cache is None:
            return None
        key = request.cache_key(self._cache.secret)
        if key is None:
            return None
        get = self._cache.get
        in_thread = self._cache.blocks and not blocks_here()
        found = await asyncio.to_thread(get, key) if in_thread else get(key)
        return None if found is None else found.body

    async def _degrade(self, ask: Ask, request: LocalRequest) -> bytes | None:
        answer: Any = ask.step.text
        if answer is None and self._degraded is not None:
            answer = self._degraded(msgspec.json.decode(request.body), ask.failure)
            if inspect.isawaitable(answer):
                answer = await foreign(answer)
        if isinstance(answer, Mapping):
            return msgspec.json.encode(answer)
        if answer is None:
            return None
        return write_answer(request.shape, str(answer), request.model, choices=request.choices)

    def _warn_once(self, what: str, error: Exception) -> None:
        if what not in self._warned:
            self._warned.add(what)
            _log.warning("%s failed (logged once): %s", what, type(error).__name__)


def _is_readable_again(body: bytes, request: LocalRequest) -> bool:
    """Whether a success can be read without its headers; a file cannot, since only headers mark it."""
    return request.shape not in _MAY_BE_FILES or _outcome(body, request) is not None


def _outcome(body: bytes, request: LocalRequest) -> Outcome | None:
    """Read a cached body like a new one; None if it is not a complete answer."""
    response = HttpResponse(200, {}, body, 0.0)
    parsed = read_answer(response, request.shape, choices=request.choices, inputs=request.inputs)
    if parsed.verdict is not Verdict.OK:
        return None
    usage = parsed.usage if parsed.usage.total else None
    return Outcome(Verdict.OK, value=Response(200, body, parsed), status=200, usage=usage)


# ---------------------------------------------------------------- a text in the format of an endpoint

ID = "stormbreak-degraded"  # the `id` of a degraded answer
MAX_CHOICES = 128  # no provider returns more


def write_answer(shape: Shape, text: str, model: str, *, choices: int = 1) -> bytes | None:
    """Write an answer with `text` in each of its choices and zero tokens; None if the shape has no text."""
    write = _WRITERS.get(shape)
    if write is None or choices > MAX_CHOICES:
        return None
    return msgspec.json.encode(write(text, model, choices))


def _chat(text: str, model: str, choices: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": ID,
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [
            {"index": index, "message": message, "finish_reason": "stop"}
            for index in range(choices)
        ],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


def _response(text: str, model: str, _: int) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    message = {"id": f"{ID}-1", "type": "message", "role": "assistant", "status": "completed"}
    return {
        "id": ID,
        "object": "response",
        "created_at": 0,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [message | {"content": content}],
        "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
    }


def _message(text: str, model: str, _: int) -> dict[str, Any]:
    return {
        "id": ID,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


_WRITERS: Mapping[Shape, Callable[[str, str, int], dict[str, Any]]] = {
    Shape.CHAT: _chat,
    Shape.RESPONSES: _response,
    Shape.MESSAGES: _message,
}
