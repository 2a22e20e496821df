"""From an HTTP answer to its verdict: the tables applied, in one order.

1. A success is read as what it should be (`completeness`); an error inside it counts as the error it names.
2. The status of an error gives the verdict, and the default where the status is unknown.
3. A code may make a final verdict out of any other, for it knows why. It may tell the kinds of 5xx apart.
   It never makes a final 4xx retryable, and never turns a 429 into ill health.
4. Where no code decides, a few messages do, for providers that have nothing else.
5. A throttle by a quota that does not come back within the day is final. So is a failure of which the server
   says that it must not be sent again, and names no time to come back. A throttle of which it says so is `forbidden`.

No input raises. Nothing a provider wrote in free text gets into a `ParsedResponse`, save the answer itself.
"""

import re
from collections.abc import Mapping

from stormbreak.llm.completeness import read_body
from stormbreak.llm.error_body import ProviderError, parse_error
from stormbreak.llm.error_tables import (
    BROAD,
    DAILY,
    NAMED,
    NONE_GRANTED,
    OVERSIZED,
    PAIRS,
    PHRASES,
    RETRYABLE_BUDGET,
    STATUSES,
    UNTOUCHED,
)
from stormbreak.llm.models import HttpResponse, ParsedResponse, Shape
from stormbreak.llm.parsed_answer import ERROR_INSIDE
from stormbreak.llm.retry_after import WAITS, retry_after
from stormbreak.types import TREATMENTS, Tally, Verdict

_NOTHING_SAID = ProviderError()
_KINDS_OF_5XX = frozenset({Verdict.SERVER_ERROR, Verdict.OVERLOADED})
_SAYS_ENOUGH = frozenset(Verdict).difference(
    *(phrase.on for phrase in PHRASES), {Verdict.THROTTLED}
)
_AWS_TYPE = re.compile(r"[A-Za-z0-9]{1,64}", re.ASCII)
_MAX_ERROR = (
    2**20
)  # bytes of a success in which an error is looked for: to decode more takes seconds
_FILES = frozenset({"application/octet-stream", "application/pdf", "application/zip"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)
_HOST = re.compile(
    r"\s*(?:https?:)?//(?:[^/?#@\s]*@)*([a-z0-9.-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::\d*)?(?:[/?#\s]|$)",
    re.ASCII | re.IGNORECASE,
)


def read_answer(
    answer: HttpResponse, shape: Shape, *, choices: int = 1, inputs: int | None = None
) -> ParsedResponse:
    """Tell what an answer means. OK is only a complete and well-formed answer to that very call.

    Args:
        answer: what came.
        shape: what the call asked for.
        choices: how many choices it asked for (`n`).
        inputs: how many inputs it gave to be embedded; None if that is not known.
    """
    if not answer.succeeded:
        return read_error(answer, parse_error(answer.body, is_error=True))
    if shape is Shape.RESOURCE and _is_file(answer.headers):
        return ParsedResponse(Verdict.OK, request_id=request_id_of(answer.headers))
    wanted = inputs if shape is Shape.EMBEDDINGS else choices
    reading = read_body(answer.body, shape, request_id_of(answer.headers), wanted)
    if reading.verdict is Verdict.OK or reading.finish_reason is not None:
        return reading
    short = len(answer.body) <= _MAX_ERROR
    complaint = parse_error(answer.body, is_error=False) if short else None
    if complaint is None and reading.detail == ERROR_INSIDE:
        complaint = _NOTHING_SAID
    if complaint:
        return read_error(answer, complaint)
    if shape is Shape.JSON and answer.body and is_media(answer.headers):
        return ParsedResponse(Verdict.OK, request_id=request_id_of(answer.headers))
    return reading


def read_error(answer: HttpResponse, complaint: ProviderError | None) -> ParsedResponse:
    """Tell what an error means; inside a success, `complaint` is the error that was found there."""
    inside = answer.succeeded
    said = _with_header(complaint or _NOTHING_SAID, answer.headers)
    status = said.status if inside else answer.status
    verdict = _verdict(status, said, answer.headers)
    wait = None
    if TREATMENTS[verdict].retry:
        wait = retry_after(
            answer.headers, status=status or 0, received_at=answer.received_at, hint=said.wait
        )
    forbidden = wait is None and _forbidden(verdict, answer.headers)
    if forbidden and TREATMENTS[verdict].tally is Tally.FAILURE:
        verdict = Verdict.UNREPEATABLE
    refusal = wait is not None or any(NAMED.get(name.lower()) is verdict for name in said.names)
    return ParsedResponse(
        verdict,
        retry_after=wait,
        code=said.code,
        detail=_detail(verdict, answer, inside=inside),
        request_id=request_id_of(answer.headers),
        maybe_processed=inside or may_be_processed(answer.status, verdict, refusal=refusal),
        forbidden=forbidden,
    )


def _is_file(headers: Mapping[str, str]) -> bool:
    """Whether something comes that is said to be neither JSON nor a page: SDKs accept JSON whatever they ask for."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return bool(kind) and not kind.endswith(("json", "html"))


def is_media(headers: Mapping[str, str]) -> bool:
    """Whether a body is said to be sound, a picture or another file: nothing of it can be read but that it came whole."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind.startswith(("audio/", "image/", "video/")) or kind in _FILES


def verdict_of_status(status: int) -> Verdict:
    """Tell what a status alone means."""
    known = STATUSES.get(status)
    if known is not None:
        return known
    if 300 <= status <= 399:
        return Verdict.REDIRECTED
    if 400 <= status <= 499:
        return Verdict.INVALID
    return Verdict.SERVER_ERROR if 500 <= status <= 599 else Verdict.BROKEN


def may_be_processed(status: int, verdict: Verdict, *, refusal: bool) -> bool:
    """Whether the work may have been done, and billed, behind an error with this status.

    Who turns a request away has not begun with it, and that is what a 4xx says. Of a server that failed nobody knows how
    far it came; a 503 may also be a proxy that lost the server, so it counts as a `refusal` only where it names the
    overload, or a time to come back.
    """
    if verdict is Verdict.UNREPEATABLE or status == 408:
        return True
    if not 500 <= status <= 599 or status in UNTOUCHED:
        return False
    refused = verdict in {Verdict.OVERLOADED, Verdict.THROTTLED} and refusal
    return TREATMENTS[verdict].retry and not refused


def _with_header(said: ProviderError, headers: Mapping[str, str]) -> ProviderError:
    """Add the type that AWS puts into a header: `ThrottlingException:http://...`."""
    found = _AWS_TYPE.match(headers.get("x-amzn-errortype", ""))
    return said._replace(names=(found[0], *said.names)) if found else said


def _forbidden(verdict: Verdict, headers: Mapping[str, str]) -> bool:
    """Whether the server forbids to send again what would be."""
    word = headers.get("x-should-retry", "").strip().lower()
    return word == "false" and TREATMENTS[verdict].retry


def _verdict(status: int | None, said: ProviderError, headers: Mapping[str, str]) -> Verdict:
    verdict = _by_status(status, said, headers)
    return Verdict.BILLING if verdict is Verdict.THROTTLED and _lasts(said) else verdict


def _lasts(said: ProviderError) -> bool:
    """Whether it is a quota of the day, or none at all, that throttles."""
    return any(map(DAILY.search, said.quotas)) or bool(NONE_GRANTED.search(said.message))


def _by_status(status: int | None, said: ProviderError, headers: Mapping[str, str]) -> Verdict:
    if said.verdict is not None:
        return said.verdict
    names = [name.lower() for name in said.names]
    named = next((NAMED[name] for name in names if name in NAMED), None)
    if status is None:
        broad = next((BROAD[name] for name in names if name in BROAD), Verdict.SERVER_ERROR)
        return named or _by_message(broad, said.message)
    pairs = ((status, name) for name in names)
    base = next((PAIRS[pair] for pair in pairs if pair in PAIRS), verdict_of_status(status))
    if status in {402, 403} and (said.limit_source or said.flagged):
        return _openrouter(said, headers)
    if base is Verdict.REDIRECTED or named is None:
        return _by_message(base, said.message)
    telling = not TREATMENTS[named].retry or (status >= 500 and base in _KINDS_OF_5XX)
    return named if telling else _by_message(base, said.message)


def _openrouter(said: ProviderError, headers: Mapping[str, str]) -> Verdict:
    """Tell apart what OpenRouter means by 402 and 403."""
    if said.flagged:
        return Verdict.FILTERED
    passing = said.limit_source == RETRYABLE_BUDGET and any(name in headers for name in WAITS)
    return Verdict.THROTTLED if passing else Verdict.BILLING


def _by_message(base: Verdict, message: str) -> Verdict:
    """Refine a verdict by what the message says; only where it can be about the request, or the account."""
    if not message or base in _SAYS_ENOUGH:
        return base
    oversized = OVERSIZED.search(message)
    if oversized and base is not Verdict.AUTH and int(oversized[2]) > int(oversized[1]):
        return Verdict.TOO_LONG
    found = (each for each in PHRASES if base in each.on and each.pattern.search(message))
    return next((each.verdict for each in found), base)


def _detail(verdict: Verdict, answer: HttpResponse, *, inside: bool) -> str | None:
    if verdict is Verdict.REDIRECTED:
        found = _HOST.match(answer.headers.get("location", ""))
        return f"redirected to {found[1].lower()}" if found else "redirected without naming a host"
    if inside:
        return ERROR_INSIDE
    if verdict is Verdict.BROKEN:
        return "not a final HTTP status"
    return "html instead of json" if answer.body[:256].lstrip()[:1] == b"<" else None


def request_id_of(headers: Mapping[str, str]) -> str | None:
    """Find the identifier under which the provider knows this request."""
    name = headers.get("x-request-id") or headers.get("request-id")
    return name if name is not None and _REQUEST_ID.fullmatch(name) else None
