"""The input and output of the parsers: an `HttpResponse` goes in, a `ParsedResponse` comes out.

Nothing here reads a clock: the time of receipt is part of the input.
"""

from codecs import BOM_UTF8
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

import msgspec

from stormbreak.types import Usage, Verdict

NO_USAGE = Usage()


def without_mark(body: bytes) -> bytes:
    """Return JSON without the byte order mark that some servers write and decoders reject; anything else as it is."""
    if not body.startswith(BOM_UTF8) or not body[len(BOM_UTF8) :].lstrip().startswith((b"{", b"[")):
        return body
    return body[len(BOM_UTF8) :]


class Value(msgspec.Struct, frozen=True):
    """Base of values made for each response; the constructor of a NamedTuple, in Python, takes four times as long."""

    __rich_repr__ = None  # type: ignore[assignment]  # rich would show the fields

    def _replace(self, **changes: Any) -> Self:
        return msgspec.structs.replace(self, **changes)


class HttpResponse(Value, frozen=True):
    """One HTTP response. Header names are lower-case; `received_at` is in unix epoch seconds.

    `repeated` has all values of repeated headers; `headers` has one of them.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at: float
    repeated: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status <= 299

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with any mapping of headers."""
        headers, repeated = dict(self.headers), dict(self.repeated)
        return type(self), (self.status, headers, self.body, self.received_at, repeated)

    def __repr__(self) -> str:
        return f"HttpResponse({self.status}, {len(self.body)} bytes)"


class ParsedResponse(Value, frozen=True):
    """The meaning of an answer.

    `code` and `request_id` are identifiers of the provider, never free text. `detail` is in our own words; in a success
    it describes anything unusual. `text` and `finish_reason` are those of the first choice. `retry_after` is in
    seconds, and set only if waiting may help.
    """

    verdict: Verdict
    retry_after: float | None = None
    code: str | None = None
    detail: str | None = None
    text: str = ""
    usage: Usage = NO_USAGE
    finish_reason: str | None = None
    request_id: str | None = None
    maybe_processed: bool = False  # the work may have been done, and billed
    forbidden: bool = False  # the server forbids a retry

    def __repr__(self) -> str:
        return f"ParsedResponse({self.verdict}, code={self.code!r}, detail={self.detail!r})"
