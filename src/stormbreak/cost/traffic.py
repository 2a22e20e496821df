"""Real traffic: how many tokens each model has used, by a batch's OUTPUT or by an export of what a provider counted."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

from stormbreak.cost.prices import Service, Tokens
from stormbreak.errors import ConfigurationError
from stormbreak.llm.tokens import BYTES_PER_TOKEN


class Kind(NamedTuple):
    """Requests that cost alike."""

    model: str
    service: Service = Service.STANDARD


class Counted(NamedTuple):
    """Tokens of some requests, as a provider counted them."""

    kind: Kind
    tokens: Tokens
    requests: int = 1


class Uncounted(NamedTuple):
    """An answer that does not say what it used; `size` are the bytes of its text."""

    kind: Kind
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What one kind of requests has used; the tokens of so many of them are `estimated`."""

    kind: Kind
    tokens: Tokens
    requests: int
    estimated: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """All of it. `since` and `until`, where the file says so; `said` is what one should know of it."""

    uses: tuple[Use, ...]
    since: date | None = None
    until: date | None = None
    said: tuple[str, ...] = ()


class _Sum:
    """Adds up one kind."""

    def __init__(self) -> None:
        self.tokens = Tokens(0, 0)
        self.requests = self.uncounted = self.bytes = 0

    def add(self, tokens: Tokens, requests: int) -> None:
        self.tokens = self.tokens.plus(tokens)
        self.requests += requests


def sum_usage(records: Iterable[Counted | Uncounted]) -> tuple[Use, ...]:
    """What each kind has used, in the order of their coming.

    An answer without usage is taken to have used the mean input of the others of its kind, or of all, and a token for each
    four bytes of its text.

    Raises:
        ConfigurationError: none of the answers says what it used.
    """
    sums: dict[Kind, _Sum] = {}
    for record in records:
        total = sums.setdefault(record.kind, _Sum())
        if isinstance(record, Counted):
            total.add(record.tokens, record.requests)
        else:
            total.uncounted += 1
            total.bytes += record.size
    return tuple(_uses(sums))


def _uses(sums: dict[Kind, _Sum]) -> Iterator[Use]:
    everything = sum(one.tokens.input for one in sums.values())
    counted = sum(one.requests for one in sums.values())
    if sums and not counted:
        raise ConfigurationError("no answer says what it used, so its prompts cannot be estimated")
    for kind, one in sums.items():
        whole, of = (one.tokens.input, one.requests) if one.requests else (everything, counted)
        entry = one.tokens.input + round(one.uncounted * whole / of)
        output = one.tokens.output + -(-one.bytes // BYTES_PER_TOKEN)
        yield Use(
            kind=kind,
            tokens=one.tokens._replace(input=entry, output=output),
            requests=one.requests + one.uncounted,
            estimated=one.uncounted,
        )
