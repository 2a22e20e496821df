"""Every kind of trouble, and which keys of a trouble mean something for it."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Form(StrEnum):
    """How a wait is written: `Retry-After` in whole seconds or as a date, `retry-after-ms`, or not at all."""

    SECONDS = "seconds"
    DATE = "date"
    MS = "ms"
    BARE = "bare"


class Kind(StrEnum):
    """What can go wrong."""

    # conditions: they hold for everybody as long as they last
    CAPACITY = "capacity"
    SERVICE = "service"
    DOWN = "down"
    # refusals: quick, no slot is taken, no work is done
    S400 = "400"
    S401 = "401"
    S404 = "404"
    S429 = "429"
    QUOTA = "quota"
    S500 = "500"
    S502 = "502"
    S503 = "503"
    S504 = "504"
    S529 = "529"
    RESET = "reset"
    HANG = "hang"
    # spoilt answers: the work was done
    SLOW_HEADERS = "slow_headers"
    SLOW_BODY = "slow_body"
    CUT_BODY = "cut_body"
    EMPTY_BODY = "empty_body"
    INVALID_JSON = "invalid_json"
    ERROR_IN_200 = "error_in_200"
    CUT_STREAM = "cut_stream"
    STREAM_RESET = "stream_reset"


CONDITIONS = frozenset({Kind.CAPACITY, Kind.SERVICE, Kind.DOWN})
REFUSALS = frozenset(kind for kind in Kind if kind[0].isdigit()) | {
    Kind.QUOTA,
    Kind.RESET,
    Kind.HANG,
}
SLOW = frozenset({Kind.SLOW_HEADERS, Kind.SLOW_BODY})
STREAM_ONLY = frozenset({Kind.CUT_STREAM, Kind.STREAM_RESET})

_SHARE = frozenset({"share"})
_REFUSED = _SHARE | {"after"}
_TOLD = _REFUSED | {"retry_after", "form"}  # a status that may name a time to come back
_EXCEPTIONS = {
    Kind.CAPACITY: frozenset({"factor", "ramp"}),
    Kind.SERVICE: frozenset({"factor", "ramp"}),
    Kind.DOWN: _TOLD - _SHARE,
    Kind.QUOTA: _REFUSED,
    Kind.RESET: _REFUSED,
    Kind.SLOW_HEADERS: _SHARE | {"seconds"},
    Kind.SLOW_BODY: _SHARE | {"seconds"},
}

MEANINGFUL: Mapping[Kind, frozenset[str]] = MappingProxyType(
    {kind: _EXCEPTIONS.get(kind, _TOLD if kind[0].isdigit() else _SHARE) for kind in Kind}
)
