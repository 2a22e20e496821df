"""Write and read one line of OUTPUT or of the failed file (OpenAI Batch output format).

Bodies are written byte for byte, unless they would break the line or its readers: a body that is not JSON or is nested
too deeply becomes a string, and so does a number that is too large for common readers.
"""

import json
import math
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import DecodeError, Raw, Struct, ValidationError
from msgspec.json import Decoder, encode

from stormbreak import file_reader
from stormbreak.batch.input.index import Rows
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, quote, system_errors_at
from stormbreak.types import Verdict

_RAW = Decoder(Raw)
_MAX_DEPTH = 500  # levels of nesting that common readers accept
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
# An unterminated string is one token, so that a body full of quotes is searched only once.
_STRING_OR_NUMBER = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|-?[0-9][0-9.eE+-]*', re.DOTALL)
_MAX_NUMBER = 4300  # digits that Python reads as an integer
_DECODED_WHOLE = 2**20  # bytes; the objects of a larger body could take gigabytes
_SHAPE_OF_NUMBERS = bytes.maketrans(b"123456789E", b"000000000e")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The provider's response, with its `body` as received. `answered_by` names a fallback that answered.

    `attempts` is the number of attempts. `service_tier` is set if the price is not the usual one and the body does not
    show it.
    """

    status_code: int
    answered_by: str | None = None
    attempts: int = 1
    service_tier: str | None = None
    request_id: str | None = None
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a row has no answer. `message` is ours, never a prompt or a provider's text; `retry_at` is unix time.

    `maybe_processed` of the `attempts` may have been billed.
    """

    code: str
    message: str
    verdict: Verdict
    attempts: int
    maybe_processed: int = 0
    retry_at: float | None = None


class Tries(NamedTuple):
    """Attempts at one row, and how many of them may have been billed."""

    attempts: int
    maybe_processed: int

    def plus(self, more: "Tries") -> "Tries":
        return Tries(self.attempts + more.attempts, self.maybe_processed + more.maybe_processed)


NO_ATTEMPTS = Tries(0, 0)


class Entry(NamedTuple):
    """A complete line of a file."""

    number: int  # of the line, from 1
    offset: int
    raw: bytes
    custom_id: str
    verdict: str | None  # of the failure; None for an answer
    tries: Tries  # of the failure

    @property
    def end(self) -> int:
        return self.offset + len(self.raw)


class _Error(Struct):
    verdict: str = "unknown"
    attempts: int = 0
    maybe_processed: int = 0


class _Line(Struct):
    custom_id: str
    error: _Error | None


_LINE = Decoder(_Line)
_FIELDS = Decoder(dict[str, Raw])


def success_line(custom_id: str, response: Response) -> bytes:
    """Return the line, newline included, that records an answer."""
    who, attempts = response.answered_by, response.attempts
    more = b"" if who is None else b',"answered_by":' + _json(who)
    more += b"" if attempts == 1 else b',"attempts":%d' % attempts
    if response.service_tier is not None:
        more += b',"service_tier":' + _json(response.service_tier)
    return _line(custom_id, response, b"null", more)


def failure_line(custom_id: str, failure: Failure, response: Response | None = None) -> bytes:
    """Return the line, newline included, that records a failure and the provider's response, if there was one."""
    return _line(custom_id, response, _json(failure))


def entries(path: Path) -> Iterator[Entry]:
    """Read the complete lines of `path`, none if there is no such file; the file may be growing.

    Leave out a torn last line. Raises ConfigurationError for a broken line before the last.
    """
    with (
        system_errors_at(path),
        suppress(FileNotFoundError),
        file_reader.opened(path, buffering=2**20) as file,
    ):
        offset = 0
        for number, raw in enumerate(file, 1):
            try:
                line = _LINE.decode(raw)
            except (DecodeError, UnicodeDecodeError, RecursionError) as error:
                if not isinstance(error, ValidationError) and not file.read(1):
                    return
                where = f"{path_of(path)}:{number}"
                raise ConfigurationError(f"{where}: not a line of batch output") from None
            failed, verdict, tries = line.error, None, NO_ATTEMPTS
            if failed is not None:
                verdict, tries = failed.verdict, Tries(failed.attempts, failed.maybe_processed)
            yield Entry(number, offset, raw, line.custom_id, verdict, tries)
            offset += len(raw)


def count_lines(path: Path) -> int:
    """Count the whole lines of `path` without parsing them; 0 if there is no such file."""
    with (
        system_errors_at(path),
        suppress(FileNotFoundError),
        file_reader.opened(path, buffering=2**20) as file,
    ):
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
    return 0


def placed(path: Path, rows: Rows) -> Iterator[tuple[int, Entry]]:
    """Read the complete lines of `path`, each with the index of its row. Raise ConfigurationError for an unknown id."""
    for entry in entries(path):
        index = rows.find(entry.custom_id)
        if index is None:
            where = f"{path_of(path)}:{entry.number}"
            raise ConfigurationError(f"{where}: no row of the input is {quote(entry.custom_id)}")
        yield index, entry


def add_earlier_attempts(entry: Entry, tries: Tries) -> bytes:
    """Return the line of a failure with the attempts of earlier runs added."""
    if tries == NO_ATTEMPTS:
        return entry.raw
    line = _FIELDS.decode(entry.raw)
    error = _FIELDS.decode(line["error"])
    together = entry.tries.plus(tries)._asdict()
    line["error"] = Raw(encode(error | together))
    return encode(line) + b"\n"


def _line(custom_id: str, response: Response | None, error: bytes, more: bytes = b"") -> bytes:
    content = b"null"
    if response is not None:
        head = b'{"status_code":%d,"request_id":%b,"body":'
        content = head % (response.status_code, _json(response.request_id))
        content += _value(response.body) + b"}"
    name = b'{"id":"batch_req_%b","custom_id":%b,"response":'
    return b"".join(
        (
            name % (secrets.token_hex(12).encode(), encode(custom_id)),
            content,
            b',"error":',
            error,
            more,
            b"}\n",
        )
    )


def _json(value: str | Failure | None) -> bytes:
    try:
        return encode(value)
    except UnicodeEncodeError:  # a lone surrogate, from headers that are not UTF-8
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
        return text.encode(errors="replace")


def _value(body: bytes) -> bytes:
    """Return `body` as a JSON value on one line."""
    if not body:
        return b"null"
    try:
        return _checked(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        readable = with_readable_numbers(body)
    try:
        return _checked(readable)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        # An answer that is cut within an emoji ends with half of it: a \u escape that UTF-8 cannot hold.
        loaded = json.loads(readable)
        return _checked(json.dumps(loaded, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError, DecodeError):
        return encode(body.decode(errors="replace"))


def with_readable_numbers(body: bytes) -> bytes:
    """Quote each number that common readers refuse or read as infinite; change nothing else."""
    return _STRING_OR_NUMBER.sub(_readable, body)


def _readable(token: re.Match[bytes]) -> bytes:
    text = token[0]
    if text.startswith(b'"'):
        return text
    try:
        fits = len(text) <= _MAX_NUMBER and math.isfinite(float(text))
    except ValueError:  # not a number: then the body is not JSON either
        return text
    return text if fits else b'"' + text + b'"'


def _checked(body: bytes) -> bytes:
    body.decode()  # the JSON decoder lets invalid UTF-8 pass inside a raw value
    if len(body) <= _DECODED_WHOLE:
        msgspec.json.decode(body)  # also raises for a number that does not fit
    else:
        _RAW.decode(body)
        shape = body.translate(_SHAPE_OF_NUMBERS, b"+")
        if (b"e000" in shape or b"0" * 309 in shape) and _has_unreadable(body):
            raise DecodeError
    if body.count(b"[") + body.count(b"{") > _MAX_DEPTH and _depth(body) > _MAX_DEPTH:
        raise RecursionError
    return msgspec.json.format(body, indent=-1) if b"\n" in body or b"\r" in body else body


def _has_unreadable(body: bytes) -> bool:
    return any(_readable(token) != token[0] for token in _STRING_OR_NUMBER.finditer(body))


def _depth(body: bytes) -> int:
    """Count the levels of nesting. The interpreter's own limit differs by version."""
    deepest = level = 0
    for bracket in re.findall(rb"[\[{\]}]", _STRING.sub(b"", body)):
        level += 1 if bracket in b"[{" else -1
        deepest = max(deepest, level)
    return deepest
