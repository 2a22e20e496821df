"""Read the fields of an error body, in any of its many forms. `response_verdict` decides what they mean.

Messages are kept for matching and for the hints in them; they never leave this package.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from stormbreak.llm.error_tables import MINIMAX_CODES
from stormbreak.llm.parsed_response import without_mark
from stormbreak.llm.retry_after import GO_DURATION, duration
from stormbreak.llm.surrogates import UNREADABLE
from stormbreak.types import Verdict

_MESSAGE_LIMIT = 4_096
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
_KEYLIKE = re.compile(
    r"(?:[sp]k|gsk|hs|xai)[-_]|aiza|(?:[^0-9]*[0-9]){8}", re.IGNORECASE | re.ASCII
)
_HINT = re.compile(  # "try again in 1m3s", "retry after 37 seconds"
    rf"(?:try again|retry) (?:in|after) ((?:{GO_DURATION}(?![a-z0-9]))|\d+(?:\.\d+)? ?[a-z]{{3,12}})",
    re.ASCII,
)


class ProviderError(NamedTuple):
    """The fields of an error body. `names` are codes and types, the most specific first."""

    names: tuple[str, ...] = ()
    status: int | None = None
    message: str = ""
    limit_source: str | None = None
    flagged: bool = False
    wait: float | None = None
    quotas: tuple[str, ...] = ()  # in lower case
    verdict: Verdict | None = None  # of an error form with its own codes

    @property
    def code(self) -> str | None:
        """The provider's own code, or else the status; never free text."""
        shown = next(filter(None, map(identifier, self.names)), None)
        return shown or (str(self.status) if self.status else None)


def identifier(text: object) -> str | None:
    """Pass a short identifier; None for anything that could be a sentence or a key."""
    if not isinstance(text, str) or not _IDENTIFIER.fullmatch(text) or _KEYLIKE.match(text):
        return None
    return text


def is_error_value(error: object) -> bool:
    """Whether the value of an error field is an error; an object of empty values is not."""
    return bool(error) and (any(error.values()) if isinstance(error, dict) else True)


def error_next_to_result(data: Mapping[str, Any]) -> Any:
    """Find the error that Groq or MiniMax puts next to an answer; None if there is none.

    MiniMax always sends `base_resp`; a `status_code` of 0 is a success.
    """
    groq, minimax = _object(data.get("x_groq")), _object(data.get("base_resp"))
    if is_error_value(groq.get("error")):
        return groq["error"]
    return minimax if minimax.get("status_code") else None


def parse_error(body: bytes, *, is_error: bool) -> ProviderError | None:
    """Find the error in a body; None if it holds none. With `is_error`, looser forms count, too."""
    try:
        data = msgspec.json.decode(without_mark(body))
    except UNREADABLE:
        return None
    return find_error(data, is_error=is_error)


def find_error(data: object, *, is_error: bool) -> ProviderError | None:
    if isinstance(data, list) and data:  # Gemini's form: the first item is only an error
        first = _object(data[0])
        if is_error or (len(first) == 1 and isinstance(first.get("error"), dict)):
            data = data[0]
    if not isinstance(data, dict):
        return None
    error = data.get("error")
    if not is_error_value(error):
        error = _in_choices(data.get("choices"))
    if not error and ("x_groq" in data or "base_resp" in data):
        error = error_next_to_result(data)
    if error:
        return _provider_error(error, data)
    if is_error or data.get("object") == "error" or data.get("type") == "error":
        return _provider_error(data, {})
    return None


def _in_choices(choices: object) -> Any:
    for choice in choices if isinstance(choices, list) else ():
        error = _object(choice).get("error")
        if is_error_value(error):
            return error
    return None


def _provider_error(error: object, beside: dict[str, Any]) -> ProviderError:
    """Read an error object or text; some servers put its code or status next to it, in `beside`."""
    if not isinstance(error, dict):
        error = {"message": error, "code": beside.get("code"), "type": beside.get("error_type")}
    inner = error.get("error")
    if isinstance(inner, dict) and not (error.get("message") or error.get("code")):
        error = inner  # Groq's form, and that of gateways that pass errors on
    metadata, details = _object(error.get("metadata")), error.get("details")
    status = _status(error.get("code")) or _status(error.get("status"))
    texts = *map(error.get, ("message", "detail", "status_msg")), metadata.get("raw")
    message = " ".join(text[:_MESSAGE_LIMIT] for text in texts if isinstance(text, str)).lower()
    hint = _HINT.search(message)
    own = error.get("status_code")
    return ProviderError(
        names=tuple(_names(error, details)),
        status=status or _status(own) or _status(beside.get("status_code")),
        message=message,
        limit_source=identifier(metadata.get("limit_source")),
        flagged="flagged_input" in metadata,
        wait=_retry_delay(details) or (duration(hint[1]) if hint else None),
        quotas=tuple(_quotas(details)),
        verdict=MINIMAX_CODES.get(own) if type(own) is int else None,
    )


def _names(error: dict[str, Any], details: object) -> list[str]:
    parts = details if isinstance(details, list) else [details]
    named = [_object(part).get(key) for part in parts for key in ("error_code", "reason")]
    named += [error.get("code"), _object(error.get("innererror")).get("code")]
    named += [error.get("type"), error.get("status"), error.get("__type")]
    own = error.get("status_code")
    named += [str(own)] if type(own) is int else []
    words = (name.rpartition("#")[2] for name in named if isinstance(name, str))
    return [word for word in words if not _status(word)]


def _status(value: object) -> int | None:
    """Read an HTTP status in the place of a code."""
    if isinstance(value, str) and re.fullmatch(r"[45]\d\d", value, re.ASCII):
        value = int(value)
    return value if type(value) is int and 400 <= value <= 599 else None


def _retry_delay(details: object) -> float | None:
    """Read google.rpc.RetryInfo."""
    parts = details if isinstance(details, list) else []
    delays = (_object(part).get("retryDelay") for part in parts)
    return next((duration(delay) for delay in delays if isinstance(delay, str)), None)


def _quotas(details: object) -> Iterator[str]:
    """Read the quotas of google.rpc.QuotaFailure."""
    for part in details if isinstance(details, list) else []:
        violations = _object(part).get("violations")
        for violation in violations if isinstance(violations, list) else []:
            name = _object(violation).get("quotaId")
            if isinstance(name, str):
                yield name[:_MESSAGE_LIMIT].lower()


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
