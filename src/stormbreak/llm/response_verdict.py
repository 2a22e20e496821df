"""From an HTTP response to its verdict: apply the tables in one order, which docs/verdicts.md explains.

A success is read by its shape (`completeness`); an error inside it counts as the error that it names. The status of an
error gives the verdict. A code may make any verdict final, and distinguish kinds of 5xx. A code never makes a final 4xx
retryable, and never turns a 429 into a failure of the target. If no code decides, a few messages do.

No input raises. No free text of a provider gets into a `ParsedResponse`, except the answer itself.
"""

import re
from collections.abc import Mapping

from stormbreak.llm import error_tables as tables
from stormbreak.llm.completeness import read_body
from stormbreak.llm.endpoints import Shape
from stormbreak.llm.error_fields import ProviderError, parse_error
from stormbreak.llm.parsed_response import HttpResponse, ParsedResponse
from stormbreak.llm.retry_after import WAITS, retry_after
from stormbreak.llm.success_body import ERROR_INSIDE
from stormbreak.types import TREATMENTS, Tally, Verdict

_NO_DETAILS = ProviderError()
_KINDS_OF_5XX = frozenset({Verdict.SERVER_ERROR, Verdict.OVERLOADED})
_DECIDED_BY_STATUS = frozenset(Verdict).difference(
    *(phrase.on for phrase in tables.PHRASES), {Verdict.THROTTLED}
)
_AWS_TYPE = re.compile(r"[A-Za-z0-9]{1,64}", re.ASCII)
# bytes of a success that are searched for an error: decoding more takes seconds
_MAX_ERROR = 2**20
_FILES = frozenset({"application/octet-stream", "application/pdf", "application/zip"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)
_HOST = re.compile(
    r"\s*(?:https?:)?//(?:[^/?#@\s]*@)*([a-z0-9.-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::\d*)?(?:[/?#\s]|$)",
    re.ASCII | re.IGNORECASE,
)


def read_answer(
    answer: HttpResponse, shape: Shape, *, choices: int = 1, inputs: int | None = None
) -> ParsedResponse:
    """Return the meaning of a response to a call for `shape`. Only a complete, well-formed answer to that call is OK.

    `choices` is the number of choices requested (`n`), `inputs` the number of texts to embed; None if unknown.
    """
    if not answer.succeeded:
        return read_error(answer, parse_error(answer.body, is_error=True))
    if shape is Shape.RESOURCE:
        kind = _content_type(answer.headers)
        if kind and not kind.endswith(("json", "html")):  # a file
            return ParsedResponse(Verdict.OK, request_id=request_id_of(answer.headers))
    wanted = inputs if shape is Shape.EMBEDDINGS else choices
    parsed = read_body(answer.body, shape, request_id_of(answer.headers), wanted)
    if parsed.verdict is Verdict.OK or parsed.finish_reason is not None:
        return parsed
    short = len(answer.body) <= _MAX_ERROR
    error = parse_error(answer.body, is_error=False) if short else None
    if error is None and parsed.detail == ERROR_INSIDE:
        error = _NO_DETAILS
    if error:
        return read_error(answer, error)
    if shape is Shape.JSON and answer.body and is_media(answer.headers):
        return ParsedResponse(Verdict.OK, request_id=request_id_of(answer.headers))
    return parsed


def read_error(answer: HttpResponse, found: ProviderError | None) -> ParsedResponse:
    """Return the meaning of an error; `found` is the error in the body, with an error status or a success."""
    inside = answer.succeeded
    error = _with_header(found or _NO_DETAILS, answer.headers)
    status = error.status if inside else answer.status
    verdict = _verdict(status, error, answer.headers)
    wait, forbidden = None, False
    if TREATMENTS[verdict].retry:
        wait = retry_after(
            answer.headers, status=status or 0, received_at=answer.received_at, hint=error.wait
        )
        word = answer.headers.get("x-should-retry", "").strip().lower()
        forbidden = wait is None and word == "false"
    if forbidden and TREATMENTS[verdict].tally is Tally.FAILURE:
        verdict = Verdict.UNREPEATABLE
    refusal = wait is not None or any(
        tables.NAMED.get(name.lower()) is verdict for name in error.names
    )
    return ParsedResponse(
        verdict,
        retry_after=wait,
        code=error.code,
        detail=_detail(verdict, answer, inside=inside),
        request_id=request_id_of(answer.headers),
        maybe_processed=inside or may_be_processed(answer.status, verdict, refusal=refusal),
        forbidden=forbidden,
    )


def _content_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def is_media(headers: Mapping[str, str]) -> bool:
    """Whether the content type is audio, an image, a video or a file: nothing in it can be checked."""
    kind = _content_type(headers)
    return kind.startswith(("audio/", "image/", "video/")) or kind in _FILES


def verdict_of_status(status: int) -> Verdict:
    """Return the verdict of a status alone."""
    known = tables.STATUSES.get(status)
    if known is not None:
        return known
    if 300 <= status <= 399:
        return Verdict.REDIRECTED
    if 400 <= status <= 499:
        return Verdict.INVALID
    return Verdict.SERVER_ERROR if 500 <= status <= 599 else Verdict.BROKEN


def may_be_processed(status: int, verdict: Verdict, *, refusal: bool) -> bool:
    """Whether the work may have been done, and billed, behind an error with this status.

    A 4xx rejects a request before any work. A failed server may have done some work. A 503 may come from a proxy that
    lost the server, so it counts as a `refusal` only if it names an overload or a time to come back.
    """
    if verdict is Verdict.UNREPEATABLE or status == 408:
        return True
    if not 500 <= status <= 599 or status in tables.UNTOUCHED:
        return False
    refused = verdict in {Verdict.OVERLOADED, Verdict.THROTTLED} and refusal
    return TREATMENTS[verdict].retry and not refused


def _with_header(error: ProviderError, headers: Mapping[str, str]) -> ProviderError:
    """Add the type that AWS puts into a header: `ThrottlingException:http://...`."""
    found = _AWS_TYPE.match(headers.get("x-amzn-errortype", ""))
    return error._replace(names=(found[0], *error.names)) if found else error


def _verdict(status: int | None, error: ProviderError, headers: Mapping[str, str]) -> Verdict:
    verdict = _by_status(status, error, headers)
    if verdict is Verdict.THROTTLED:
        is_out_of_quota = any(map(tables.DAILY.search, error.quotas)) or tables.NONE_GRANTED.search(
            error.message
        )
        return Verdict.BILLING if is_out_of_quota else verdict
    return verdict


def _by_status(status: int | None, error: ProviderError, headers: Mapping[str, str]) -> Verdict:
    if error.verdict is not None:
        return error.verdict
    names = [name.lower() for name in error.names]
    named = next((tables.NAMED[name] for name in names if name in tables.NAMED), None)
    if status is None:
        broad = next(
            (tables.BROAD[name] for name in names if name in tables.BROAD), Verdict.SERVER_ERROR
        )
        return named or _by_message(broad, error.message)
    pairs = ((status, name) for name in names)
    base = next(
        (tables.PAIRS[pair] for pair in pairs if pair in tables.PAIRS), verdict_of_status(status)
    )
    if status in {402, 403} and (error.limit_source or error.flagged):
        return _openrouter(error, headers)
    if base is Verdict.REDIRECTED or named is None:
        return _by_message(base, error.message)
    decides = not TREATMENTS[named].retry or (status >= 500 and base in _KINDS_OF_5XX)
    return named if decides else _by_message(base, error.message)


def _openrouter(error: ProviderError, headers: Mapping[str, str]) -> Verdict:
    """Distinguish the meanings of 402 and 403 at OpenRouter."""
    if error.flagged:
        return Verdict.FILTERED
    temporary = error.limit_source == tables.RETRYABLE_BUDGET and any(
        name in headers for name in WAITS
    )
    return Verdict.THROTTLED if temporary else Verdict.BILLING


def _by_message(base: Verdict, message: str) -> Verdict:
    """Refine a verdict by the message, if the verdict can concern the request or the account."""
    if not message or base in _DECIDED_BY_STATUS:
        return base
    oversized = tables.OVERSIZED.search(message)
    if oversized and base is not Verdict.AUTH and int(oversized[2]) > int(oversized[1]):
        return Verdict.TOO_LONG
    found = (each for each in tables.PHRASES if base in each.on and each.pattern.search(message))
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
    name = headers.get("x-request-id") or headers.get("request-id")
    return name if name is not None and _REQUEST_ID.fullmatch(name) else None
