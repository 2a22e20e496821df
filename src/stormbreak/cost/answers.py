"""The usage of each answer in a batch's OUTPUT, line by line, however long it is."""

from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from stormbreak.cost.prices import Service, Tokens
from stormbreak.cost.traffic import Counted, Kind, Uncounted
from stormbreak.errors import ConfigurationError
from stormbreak.llm.complete import read_any
from stormbreak.llm.usage import usage_of

UNNAMED = "(no model named)"
_REFUSED = 400  # the first status that is no answer
_SERVICES = {"flex": Service.FLEX, "priority": Service.PRIORITY}


class _Response(msgspec.Struct):
    status_code: Any = None
    body: msgspec.Raw = msgspec.Raw(b"null")


class Line(msgspec.Struct):
    """A line of OUTPUT, as far as costs go."""

    custom_id: str
    response: _Response | None = None
    error: Any = None


class _Body(msgspec.Struct):
    model: Any = None
    usage: Any = None
    service_tier: Any = None


_LINE = msgspec.json.Decoder(Line)
_BODY = msgspec.json.Decoder(_Body)
_BAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def is_line(raw: bytes) -> bool:
    """Whether that is a line of OUTPUT."""
    try:
        _decoded(raw)
    except _BAD:
        return False
    return True


def read_answers(lines: Iterable[bytes]) -> Iterator[Counted | Uncounted]:
    """Read what each answer says that it used. A torn last line is left out, as are failures and refusals.

    Raises:
        ConfigurationError: a line is none of OUTPUT.
    """
    for number, raw in enumerate(lines, 1):
        try:
            line = _decoded(raw)
        except _BAD:
            if not raw.endswith(b"\n"):
                return
            raise ConfigurationError(f"line {number} is no line of batch output") from None
        if line.response is not None and line.error is None and not _refused(line.response):
            yield _record(bytes(line.response.body))


def _decoded(raw: bytes) -> Line:
    """Read a line, which may begin with the byte order mark that some editors put there."""
    return _LINE.decode(raw.removeprefix(BOM_UTF8))


def _refused(response: _Response) -> bool:
    """Whether that is an error with a status, as providers have them in the files of their own batch APIs."""
    return isinstance(response.status_code, int) and response.status_code >= _REFUSED


def _record(body: bytes) -> Counted | Uncounted:
    try:
        said = _BODY.decode(body)
    except _BAD:  # a body that is no object
        return Uncounted(Kind(UNNAMED), len(body))
    model = said.model if isinstance(said.model, str) and said.model else UNNAMED
    kind = Kind(model, _SERVICES.get(str(said.service_tier), Service.STANDARD))
    usage = usage_of(said.usage)
    if usage.input_tokens:  # no request is without any
        return Counted(kind, Tokens.of(usage))
    return Uncounted(kind, len(read_any(body).text.encode(errors="replace")))
