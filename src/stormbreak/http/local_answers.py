"""Answers that need no target: those that were good once, and those that say that there is none.

A cache that is a file is read and written in threads, so that no loop waits for a disk. No trouble in here becomes that of
a call: an answer that is there is worth more than a copy of it, and a failure is told as it was.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec

from stormbreak.cache import open_cache
from stormbreak.cache.memory import Cache, cache_key
from stormbreak.core.fallback import ToCache
from stormbreak.core.flow import Ask
from stormbreak.core.policy import Policy
from stormbreak.http.exchange import Received
from stormbreak.llm.answer_writer import written
from stormbreak.llm.classify import read_answer
from stormbreak.llm.models import HttpResponse, Shape
from stormbreak.types import CACHE, TARGET, CallResult, Outcome, Verdict

Said: TypeAlias = str | Mapping[str, Any] | None
Degraded: TypeAlias = Callable[[Mapping[str, Any], Outcome], Said | Awaitable[Said]]
"""Makes an answer out of the payload of a call and its failure: a text, or a whole body; None: it has none."""

_FUNCTION, _CACHE = "the function for degraded answers", "the cache of answers"

_MAY_BE_FILES = (Shape.JSON, Shape.RESOURCE)

_log = logging.getLogger("stormbreak")


class Request(NamedTuple):
    """What was asked, as far as an answer depends on it. Its repr shows neither key nor prompt."""

    base_url: str
    endpoint: str
    shape: Shape
    body: bytes
    model: str
    api_key: str | None
    choices: int = 1
    inputs: int | None = None

    def key(self, secret: bytes) -> bytes | None:
        """Under which its answer is kept; None: it is not."""
        return cache_key(secret, self.base_url, self.endpoint, self.body, self.api_key)

    def __repr__(self) -> str:
        return f"Request({self.endpoint!r}, {len(self.body)} bytes)"


class LocalAnswers:
    """The cache and the degraded answers of one client; either may be missing.

    A cache is opened where the fallbacks of the policy have a use for it.
    """

    def __init__(self, policy: Policy, degraded: Degraded | None) -> None:
        keeps = any(isinstance(rule, ToCache) for rule in policy.fallback)
        self._cache = open_cache(policy.cache) if keeps else None
        self._degraded = degraded
        self.keeps = keeps
        self._keeping: set[asyncio.Future[None]] = set()
        self._warned: set[str] = set()

    async def find(self, ask: Ask, request: Request) -> Outcome | None:
        """The answer that a step asks for, where there is one."""
        is_kept = ask.step.source == CACHE
        try:
            body = await (self._kept(request) if is_kept else self._made(ask, request))
            return None if body is None else _outcome(body, request)
        except Exception as error:  # noqa: BLE001 - what helps must not make it worse
            self._warn_once(_CACHE if is_kept else _FUNCTION, error)
            return None

    def keep(self, request: Request, ended: CallResult) -> None:
        """Have the answer with which a call ended kept, some time soon; only a good one of its own target is."""
        if self._cache is None or ended.outcome.verdict is not Verdict.OK or ended.source != TARGET:
            return
        try:
            self._keep(self._cache, request, ended.outcome.value.body)
        except Exception as error:  # noqa: BLE001 - such as no thread to be had: the answer is there
            self._warn_once(_CACHE, error)

    def _keep(self, cache: Cache, request: Request, body: bytes) -> None:
        key = request.key(cache.secret)
        if key is None or not _is_found_again(body, request):
            return
        if not cache.blocks:
            cache.put(key, body)
            return
        loop = asyncio.get_running_loop()
        keeping = loop.run_in_executor(None, cache.put, key, body)
        self._keeping.add(keeping)
        keeping.add_done_callback(self._keeping.discard)

    async def close(self) -> None:
        """Wait until all of the running loop is kept. The cache stays open: other loops may use it."""
        here = asyncio.get_running_loop()
        keeping = [each for each in tuple(self._keeping) if each.get_loop() is here]
        if keeping:
            await asyncio.wait(keeping)

    async def _kept(self, request: Request) -> bytes | None:
        if self._cache is None:
            return None
        key = request.key(self._cache.secret)
        if key is None:
            return None
        get = self._cache.get
        found = await asyncio.to_thread(get, key) if self._cache.blocks else get(key)
        return None if found is None else found.body

    async def _made(self, ask: Ask, request: Request) -> bytes | None:
        said: Any = ask.step.text
        if said is None and self._degraded is not None:
            said = self._degraded(msgspec.json.decode(request.body), ask.failure)
            if inspect.isawaitable(said):
                said = await said
        if isinstance(said, Mapping):
            return msgspec.json.encode(said)
        if said is None:
            return None
        return written(request.shape, str(said), request.model, choices=request.choices)

    def _warn_once(self, what: str, error: Exception) -> None:
        if what not in self._warned:
            self._warned.add(what)
            _log.warning("%s failed, which is told once: %s", what, type(error).__name__)


def _is_found_again(body: bytes, request: Request) -> bool:
    """Whether a good answer is good without its headers, too: by them alone is a file known for what it is."""
    return request.shape not in _MAY_BE_FILES or _outcome(body, request) is not None


def _outcome(body: bytes, request: Request) -> Outcome | None:
    """Read it as if it had just come; what is no whole answer is none."""
    answer = HttpResponse(200, {}, body, 0.0)
    reading = read_answer(answer, request.shape, choices=request.choices, inputs=request.inputs)
    if reading.verdict is not Verdict.OK:
        return None
    usage = reading.usage if reading.usage.total else None
    return Outcome(Verdict.OK, value=Received(200, body, reading), status=200, usage=usage)
