"""Real traffic: the tokens that each model used, from a batch's OUTPUT or a provider's export."""

from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import msgspec

from stormbreak.cost.token_prices import Service, Tokens
from stormbreak.errors import ConfigurationError
from stormbreak.llm.completeness import read_any
from stormbreak.llm.tokens import BYTES_PER_TOKEN, usage_of


class Kind(NamedTuple):
    """Requests with the same prices."""

    model: str
    service: Service = Service.STANDARD


class Counted(NamedTuple):
    """Tokens of some requests, as a provider counted them."""

    kind: Kind
    tokens: Tokens
    requests: int = 1


class Uncounted(NamedTuple):
    """An answer without usage; `size` is the number of bytes of its text."""

    kind: Kind
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """The usage of one kind of requests; the tokens of the `estimated` ones are estimates."""

    kind: Kind
    tokens: Tokens
    requests: int
    estimated: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """All usage, with `since` and `until` if the file has dates; `notes` name missing parts."""

    uses: tuple[Use, ...]
    since: date | None = None
    until: date | None = None
    notes: tuple[str, ...] = ()


class _Sum:
    """Adds up one kind."""

    def __init__(self) -> None:
        self.tokens = Tokens(0, 0)
        self.requests = self.uncounted = self.bytes = 0


def sum_usage(records: Iterable[Counted | Uncounted]) -> tuple[Use, ...]:
    """Sum the usage by kind, in order of appearance.

    An answer without usage counts with the mean input of its kind, or of all kinds, and one output token per four bytes
    of its text. Raises ConfigurationError if no answer has usage.
    """
    sums: dict[Kind, _Sum] = {}
    for record in records:
        total = sums.setdefault(record.kind, _Sum())
        if isinstance(record, Counted):
            total.tokens = total.tokens.plus(record.tokens)
            total.requests += record.requests
        else:
            total.uncounted += 1
            total.bytes += record.size
    return tuple(_uses(sums))


def _uses(sums: dict[Kind, _Sum]) -> Iterator[Use]:
    everything = sum(one.tokens.input for one in sums.values())
    counted = sum(one.requests for one in sums.values())
    if sums and not counted:
        raise ConfigurationError("no answer reports its usage, so prompts cannot be estimated")
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


UNNAMED = "(no model named)"
_REFUSED = 400  # the first status of an error
_SERVICES = {"flex": Service.FLEX, "priority": Service.PRIORITY, "batch": Service.BATCH}


class _Response(msgspec.Struct):
    status_code: Any = None
    body: msgspec.Raw = msgspec.Raw(b"null")


class Line(msgspec.Struct):
    """The part of a line of OUTPUT that is needed for costs."""

    custom_id: str
    response: _Response | None = None
    error: Any = None
    attempts: Any = 1  # 0: the answer came from another row or a cache, and costs nothing
    service_tier: Any = None  # of a provider's own batch API, whose bodies do not have it


class _Body(msgspec.Struct):
    model: Any = None
    usage: Any = None
    service_tier: Any = None


_LINE = msgspec.json.Decoder(Line)
_BODY = msgspec.json.Decoder(_Body)
_BAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def is_line(raw: bytes) -> bool:
    try:
        _decoded(raw)
    except _BAD:
        return False
    return True


def read_answers(lines: Iterable[bytes]) -> Iterator[Counted | Uncounted]:
    """Read the usage of each answer; leave out failures, refusals and a torn last line.

    Raises ConfigurationError if a line is not batch output.
    """
    for number, raw in enumerate(lines, 1):
        try:
            line = _decoded(raw)
        except _BAD:
            if not raw.endswith(b"\n"):
                return
            raise ConfigurationError(f"line {number} is not a line of batch output") from None
        paid = line.error is None and line.attempts != 0
        if line.response is not None and paid and not _refused(line.response):
            yield _record(bytes(line.response.body), line.service_tier)


def _decoded(raw: bytes) -> Line:
    """Read a line, which may begin with a byte order mark."""
    return _LINE.decode(raw.removeprefix(BOM_UTF8))


def _refused(response: _Response) -> bool:
    """Whether it is an error with a status, as in the files of providers' own batch APIs."""
    return isinstance(response.status_code, int) and response.status_code >= _REFUSED


def _record(body: bytes, service: Any) -> Counted | Uncounted:
    try:
        fields = _BODY.decode(body)
    except _BAD:  # the body is not an object
        return Uncounted(Kind(UNNAMED), len(body))
    model = fields.model if isinstance(fields.model, str) and fields.model else UNNAMED
    kind = Kind(model, _SERVICES.get(str(service or fields.service_tier), Service.STANDARD))
    usage = usage_of(fields.usage)
    if usage.input_tokens:  # every request has input
        return Counted(kind, Tokens.of(usage))
    return Uncounted(kind, len(read_any(body).text.encode(errors="replace")))
