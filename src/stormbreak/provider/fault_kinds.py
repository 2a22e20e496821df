"""Every kind of fault, and the keys that apply to it."""

from collections.abc import Mapping
from enum import StrEnum


class WaitForm(StrEnum):
    """The form of a wait: `Retry-After` in whole seconds or as a date, `retry-after-ms`, or not at all."""

    SECONDS = "seconds"
    DATE = "date"
    MS = "ms"
    BARE = "bare"


class Kind(StrEnum):
    """The kinds of fault."""

    # conditions: they apply to every request while they last
    CAPACITY = "capacity"
    SERVICE = "service"
    DOWN = "down"
    # refusals: quick, without a slot or any work
    S400 = "400"
    S401 = "401"
    S403 = "403"
    S404 = "404"
    S408 = "408"
    S409 = "409"
    S413 = "413"
    S422 = "422"
    S424 = "424"
    S425 = "425"
    S429 = "429"
    S498 = "498"
    S500 = "500"
    S501 = "501"
    S502 = "502"
    S503 = "503"
    S504 = "504"
    S520 = "520"
    S521 = "521"
    S522 = "522"
    S523 = "523"
    S524 = "524"
    S529 = "529"
    QUOTA = "quota"
    BILLING = "billing"
    SPEND_LIMIT = "spend_limit"
    BALANCE = "balance"
    BUDGET = "budget"
    MODEL_NOT_FOUND = "model_not_found"
    CONTEXT_LENGTH = "context_length"
    CONTENT_FILTER = "content_filter"
    REDIRECT = "redirect"
    RESET = "reset"
    HALF_CLOSE = "half_close"
    HANG = "hang"
    # before the request was read whole
    EARLY_ANSWER = "early_answer"
    # broken answers: the work was done
    SLOW_HEADERS = "slow_headers"
    SLOW_BODY = "slow_body"
    STALL = "stall"
    STALL_EARLY = "stall_early"
    CUT_BODY = "cut_body"
    EMPTY_BODY = "empty_body"
    INVALID_JSON = "invalid_json"
    HTML_200 = "html_200"
    ERROR_IN_200 = "error_in_200"
    RATE_LIMIT_IN_200 = "rate_limit_in_200"
    EMPTY_CHOICES = "empty_choices"
    BIG_BODY = "big_body"
    TINY_CHUNKS = "tiny_chunks"
    STALE = "stale"
    PROSE = "prose"
    # on the connection
    INTERIM = "interim"
    TWICE = "twice"
    UNASKED = "unasked"
    QUIET_CLOSE = "quiet_close"
    CLOSE_RACE = "close_race"
    SHORT_LENGTH = "short_length"
    LONG_LENGTH = "long_length"
    LONG_HEADER = "long_header"
    ENDLESS_HEADERS = "endless_headers"
    ENDLESS_BODY = "endless_body"
    GZIP_LIE = "gzip_lie"
    GZIP_CUT = "gzip_cut"
    GZIP_BOMB = "gzip_bomb"
    # of streams only
    ERROR_EARLY = "error_early"
    CUT_STREAM = "cut_stream"
    STREAM_RESET = "stream_reset"
    HEARTBEATS = "heartbeats"
    NO_DONE = "no_done"
    COMMENTS = "comments"
    CRLF = "crlf"
    CR = "cr"
    ENDLESS_LINE = "endless_line"


CONDITIONS = frozenset({Kind.CAPACITY, Kind.SERVICE, Kind.DOWN})
STATUSES = frozenset(kind for kind in Kind if kind[0].isdigit())
REFUSALS = STATUSES | {
    Kind.QUOTA, Kind.BILLING, Kind.SPEND_LIMIT, Kind.BALANCE, Kind.BUDGET, Kind.MODEL_NOT_FOUND,
    Kind.CONTEXT_LENGTH, Kind.CONTENT_FILTER, Kind.REDIRECT, Kind.RESET, Kind.HALF_CLOSE, Kind.HANG,
}  # fmt: skip
SLOW = frozenset({Kind.SLOW_HEADERS, Kind.SLOW_BODY})
STREAM_ONLY = frozenset(
    {
        Kind.ERROR_EARLY, Kind.CUT_STREAM, Kind.STREAM_RESET, Kind.HEARTBEATS, Kind.NO_DONE, Kind.COMMENTS,
        Kind.CRLF, Kind.CR, Kind.ENDLESS_LINE,
    }
)  # fmt: skip
WELL_FORMED = SLOW | {
    Kind.BIG_BODY, Kind.TINY_CHUNKS, Kind.PROSE, Kind.INTERIM, Kind.TWICE, Kind.UNASKED, Kind.QUIET_CLOSE,
    Kind.CLOSE_RACE, Kind.NO_DONE, Kind.COMMENTS, Kind.CRLF, Kind.CR,
}  # fmt: skip
"""The complete, correct answer arrives; only its form, or the bytes after it, are unusual. Prose ignores a schema."""

SILENT = frozenset({Kind.HANG, Kind.STALL, Kind.STALL_EARLY, Kind.LONG_LENGTH, Kind.HEARTBEATS})
"""The complete answer never arrives, and no error reports it."""

_CHOSEN = frozenset({"share", "match", "requests", "first_attempts"})
_REFUSED = _CHOSEN | {"respond_after"}
_TOLD = _REFUSED | {"retry_after", "retry_after_form"}  # a status that may come with Retry-After
_EXCEPTIONS = {
    Kind.CAPACITY: frozenset({"factor", "ramp"}),
    Kind.SERVICE: frozenset({"factor", "ramp"}),
    Kind.DOWN: _TOLD - _CHOSEN,
    Kind.BUDGET: _TOLD,
    Kind.HANG: _CHOSEN,
    Kind.EARLY_ANSWER: frozenset({"share"}),
    Kind.SLOW_HEADERS: _CHOSEN | {"added_latency"},
    Kind.SLOW_BODY: _CHOSEN | {"added_latency"},
    Kind.UNASKED: _REFUSED,
    Kind.QUIET_CLOSE: _REFUSED,
}


def _meaningful(kind: Kind) -> frozenset[str]:
    if kind in _EXCEPTIONS:
        return _EXCEPTIONS[kind]
    if kind in REFUSALS:
        return _TOLD if kind in STATUSES else _REFUSED
    return _CHOSEN


ALLOWED_KEYS: Mapping[Kind, frozenset[str]] = {kind: _meaningful(kind) for kind in Kind}

REQUIRED_KEY: Mapping[Kind, str] = {
    Kind.CAPACITY: "factor",
    Kind.SERVICE: "factor",
    Kind.BUDGET: "retry_after",
}
"""The key that a kind requires."""
