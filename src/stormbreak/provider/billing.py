"""What the provider bills: every attempt that it has worked for, whether or not its answer reached anybody."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from stormbreak.provider.formats.form import Asked


class Billed(NamedTuple):
    """Some attempts and their tokens; of the input, so many were written to a cache, and of these so many for an hour."""

    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0

    def plus(self, asked: Asked) -> "Billed":
        """With another attempt."""
        short, hour = asked.written
        return Billed(
            self.attempts + 1,
            self.input_tokens + asked.input_tokens,
            self.output_tokens + asked.answer_tokens,
            self.cache_write_tokens + short + hour,
            self.cache_write_1h_tokens + hour,
        )


class Billing:
    """The bills, by model and by request, and who is still being worked for."""

    def __init__(self) -> None:
        self.by_model: dict[str, Billed] = {}
        self.by_digest: dict[str, Billed] = {}
        self._open: dict[int, Asked] = {}

    def arrived(self, number: int, asked: Asked) -> None:
        """A request has come in under this number."""
        self._open[number] = asked

    def ended(self, number: int, *, worked: bool) -> None:
        """The provider is through with it, and bills it if it has `worked`."""
        asked = self._open.pop(number, None)
        if asked is not None and worked:
            self.by_model[asked.model] = self.by_model.get(asked.model, Billed()).plus(asked)
            self.by_digest[asked.digest] = self.by_digest.get(asked.digest, Billed()).plus(asked)

    def summary(self) -> Mapping[str, Any]:
        """By model, in plain values."""
        return {model: billed._asdict() for model, billed in self.by_model.items()}
