"""What one call asks, and what is sent for it to each target."""

import secrets
from hashlib import blake2b

from stormbreak.errors import ConfigurationError
from stormbreak.http.exchange import Asked
from stormbreak.http.local_answers import Request
from stormbreak.http.request_body import (
    RequestFields,
    bounded,
    delivered,
    inputs,
    prompts,
    renamed,
    streamed,
    wants,
)
from stormbreak.http.routes import Route
from stormbreak.llm.models import FREE, Shape, endpoint_of, path_of
from stormbreak.llm.stream_formats import FORMATS
from stormbreak.llm.tokens import bound_of, estimate, unbounded_by
from stormbreak.types import Target, Usage

NO_BOUND = "nothing in the request bounds what it costs, such as max_tokens"
"""Why the most that it costs cannot be told, where a bound of the answer is all that is missing."""

_COUNTED = frozenset({Shape.CHAT, Shape.COMPLETION})
"""Formats that count a stream only where they are asked to."""

_NEWER = frozenset({"openai", "azure"})
"""Providers whose newer models refuse max_tokens."""


class Asking:
    """A request for an answer from wherever it can be had.

    Every attempt at one target carries the same idempotency key, `key` at the first of them, and another one made of it
    at each other: by default keys of this call's own. A model of another name is asked for by its name.

    Raises:
        ConfigurationError: the body is no JSON object, names no model, or asks for an answer that comes later.
    """

    def __init__(
        self,
        endpoint: str,
        body: bytes,
        *,
        on_wire: bool = False,
        delivers: bool = False,
        key: str | None = None,
        fields: RequestFields | None = None,
    ) -> None:
        """`on_wire`: as a stream where the answer is the same; `delivers`: as a stream in any case.

        `fields` are those of the body, where they are known.
        """
        self.endpoint = endpoint
        self.shape = shape = endpoint_of(endpoint)
        if delivers:
            body = delivered(body, with_usage=shape in _COUNTED)
        self.wanted = wanted = wants(body) if fields is None else fields
        if wanted.deferred and shape is Shape.CHAT:
            raise ConfigurationError(
                '"deferred": true asks for a job, and every attempt would begin another one; leave it out'
            )
        self._given = body
        if on_wire and shape is Shape.CHAT and wanted.may_stream:
            body = streamed(body)
            self.streamed = True
        else:
            self.streamed = delivers or bool(wanted.stream)
        self._body = self._unbound = body
        self._key = key
        self._is_free = path_of(endpoint).endswith(FREE)
        self._completes = shape is Shape.COMPLETION
        self._choices = (wanted.n or 1) * (self._prompts or 1)  # that are answered
        self._longest: int | None = None
        self._inputs = inputs(body) if shape is Shape.EMBEDDINGS else None
        self._sent: dict[Target, Asked] = {}

    @property
    def begins(self) -> bool:
        """Whether its first output can be told from its end."""
        return self.streamed and self.shape in FORMATS

    def to(self, route: Route) -> Asked:
        """What is sent there; raises ConfigurationError where the endpoint is none."""
        asked = self._sent.get(route.target)
        if asked is None:
            model, body = route.target.model, self._bounded(route.target.provider)
            asked = self._sent[route.target] = Asked(
                route.origin.url_of(self.endpoint),
                body if model == self.wanted.model else renamed(body, model),
                self.shape,
                self.streamed,
                self._choices,
                self._key_at(route),
                self._inputs,
            )
        return asked

    def _key_at(self, route: Route) -> str:
        if self._key is None:
            return secrets.token_hex(16)
        if not self._sent:
            return self._key
        where = f"{route.origin.base_url} {route.target}"
        return blake2b(f"{self._key} {where}".encode(), digest_size=16).hexdigest()

    def tokens(self) -> int:
        """An estimate of what an attempt uses, prompt and answer together."""
        choices = (self._prompts or 1) * self.wanted.choices
        return estimate(self._body, bound=self._bound, choices=choices, answers=self._answers)

    def bind(self, tokens: int | None, provider: str) -> None:
        """Bound the answer to so many tokens at the most, where the body says nothing of that; before it goes anywhere.

        It goes to `provider` first; elsewhere, the bound is written as it is read there.
        """
        assert not self._sent, "what was written is bound no more"
        if (
            tokens is None
            or self.shape is Shape.JSON
            or not self._answers
            or self._bound is not None
        ):
            return
        self._longest = tokens
        self._body = self._bounded(provider)

    def _bounded(self, provider: str) -> bytes:
        if self._longest is None:
            return self._body
        field = "max_output_tokens" if self.shape is Shape.RESPONSES else "max_tokens"
        if self.shape is Shape.CHAT and provider in _NEWER:
            field = "max_completion_tokens"
        return bounded(self._unbound, field, self._longest)

    @property
    def _bound(self) -> int | None:
        return self.wanted.bound(self.shape) if self._longest is None else self._longest

    @property
    def _answers(self) -> bool:
        return self.shape is not Shape.EMBEDDINGS

    @property
    def _prompts(self) -> int | None:
        """How many are answered; None: that cannot be told."""
        return prompts(self._body) if self._completes else 1

    def bound(self) -> Usage | None:
        """The most tokens of an attempt, where that can be told."""
        if self._is_free:
            return Usage()
        several = self._prompts
        if several is None:
            return None
        choices = several * self.wanted.choices
        return bound_of(self._body, bound=self._bound, choices=choices, answers=self._answers)

    def unbounded(self) -> str:
        """What keeps that from being told."""
        more = unbounded_by(self._body)
        if more is not None:
            return f"its {more} may cost more than anybody can tell"
        if self._prompts is None:
            return "its prompts cannot be counted"
        return NO_BOUND

    def expected(self, answer: int) -> Usage:
        """An estimate of what an attempt uses, if each of its answers has `answer` tokens, or as many as it may have."""
        bound = self._bound
        length = answer if bound is None else min(bound, answer)
        return Usage(
            input_tokens=estimate(self._body, answers=False),
            output_tokens=self.wanted.choices * length if self._answers else 0,
        )

    def request(self, base_url: str, api_key: str | None) -> Request:
        """What an answer depends on, however it comes."""
        return Request(
            base_url,
            self.endpoint,
            self.shape,
            self._given,
            self.wanted.model,
            api_key,
            self._choices,
            self._inputs,
        )
