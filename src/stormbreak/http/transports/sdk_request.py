"""A request of an SDK: its destination, its key, whether it may be retried, and its options in headers for us.

Only requests that are known to be safe to repeat go through an engine. All others pass through.
"""

import re
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import msgspec

from stormbreak.drivers.scope import Scope, checked_labels, checked_text, current
from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import quoted
from stormbreak.http.endpoint import Passed
from stormbreak.http.prepared_request import CONNECT_TIMEOUT, PreparedRequest
from stormbreak.http.request import Lookup, RequestTemplate
from stormbreak.http.routing import Route
from stormbreak.llm.endpoints import FREE, Shape, known_end, shape_of
from stormbreak.llm.stream_reader import FORMATS
from stormbreak.types import Priority

R = TypeVar("R")

OURS = "x-stormbreak-"  # the prefix of the headers for us
KEY_HEADERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
_KEY_PARAMETER = "key"
_RETRY_COUNT = "x-stainless-retry-count"
_MAX_URLS = 64  # size of the cache
_NOT_PASSED = frozenset(
    {
        "accept-encoding",  # the connection that sends the request unpacks the answer
        "connection", "content-length", "keep-alive", "proxy-authenticate", "proxy-authorization",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip


class SdkTimeouts(NamedTuple):
    """The timeouts of a request in seconds; None: no timeout."""

    connect: float | None = None
    read: float | None = None


class SdkRequest(NamedTuple):
    """One request of an SDK. Header names are lower-case. Its repr shows neither key nor prompt."""

    method: str
    url: str
    headers: Mapping[str, str]
    timeouts: SdkTimeouts = SdkTimeouts()

    @property
    def key(self) -> str | None:
        """Its API key, from a header or the URL."""
        for name in KEY_HEADERS:
            word = self.headers.get(name, "").rpartition(" ")[2]
            if word:
                return word
        query = dict(parse_qsl(urlsplit(self.url).query))
        return query.get(_KEY_PARAMETER)

    @property
    def sdk_retry_count(self) -> int:
        """The number of this retry by the SDK itself; 0 if it is not a retry."""
        count = self.headers.get(_RETRY_COUNT, "")
        return int(count) if count.isascii() and count.isdigit() else 0

    @property
    def is_model_call(self) -> bool:
        """Whether it is a call to a model that may be repeated, judged by its head."""
        return (
            self.method == "POST"
            and _endpoint_in(self.url.partition("?")[0]) is not None
            and _is_json(self.headers.get("content-type", ""))
        )

    @property
    def is_lookup(self) -> bool:
        """Whether it only reads one piece of JSON; openai sends the same head for some streams."""
        return (
            self.method == "GET"
            and _is_json(self.headers.get("accept", ""))
            and ("stream", "true") not in parse_qsl(urlsplit(self.url).query)
        )

    @property
    def place(self) -> tuple[str, str]:
        """Return the base URL and the endpoint after it, both without a query."""
        return _place(self.url.partition("?")[0])

    def __repr__(self) -> str:
        return f"SdkRequest({self.method} {self.url.partition('?')[0]!r})"


def without_hops(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers without hop-by-hop headers and headers for us."""
    if OURS in "\n".join(headers):  # quicker than checking each name
        headers = {name: headers[name] for name in headers if not name.startswith(OURS)}
    kept = dict(headers)
    for name in _NOT_PASSED & kept.keys():
        del kept[name]
    return kept


def read_timeouts(extensions: Mapping[str, Any]) -> SdkTimeouts:
    timeouts = extensions.get("timeout") or {}
    return SdkTimeouts(_seconds(timeouts.get("connect")), _seconds(timeouts.get("read")))


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


@lru_cache(_MAX_URLS)
def _place(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    endpoint = _endpoint_in(url) or "/" + parts.path.rpartition("/")[2]
    base = parts.path[: len(parts.path) - len(endpoint)]
    return urlunsplit((parts.scheme, parts.netloc, base, "", "")), endpoint[1:]


@lru_cache(_MAX_URLS)
def _endpoint_in(url: str) -> str | None:
    """Return the end of the path if it is an endpoint that is safe to repeat."""
    path = urlsplit(url).path
    for end in FREE:
        if path.endswith(end):
            return end
    if shape_of(path) is Shape.JSON:
        return None
    return known_end(path) or path[path.rindex("/") :]


# ---------------------------------------------------------------- model calls and lookups
# The SDK's own target gets the request unchanged; a fallback, or a target of a settings file, gets one of ours.

_LASTING = ("background", "conversation")  # they create state on the server: never repeat them
_CONTINUES = "previous_response_id"  # refers to state on the server


class ModelCall(RequestTemplate):
    """A call to a model.

    `is_led`: a settings file leads it to another address than the SDK's. `continues`: it refers to an earlier answer,
    which only one provider has.
    """

    is_led = continues = False

    def __init__(
        self, request: SdkRequest, endpoint: str, body: bytes, *, stream_on_wire: bool = False
    ) -> None:
        super().__init__(endpoint, body, key=request.headers.get("idempotency-key"))
        if stream_on_wire:
            self.stream_on_wire()
        self._request = request

    def _head(self, route: Route, accept: Passed, key: str) -> tuple[str, Mapping[str, str], float]:
        if self.is_led or self.prepared:
            return super()._head(route, accept, key)
        headers = without_hops(self._request.headers)  # the first request is the SDK's
        headers.setdefault("idempotency-key", key)
        if self.streamed and not self.delivers:
            headers["accept"] = "text/event-stream"
        return self._request.url, headers, _connect_timeout(self._request)


def read_call(
    request: SdkRequest, body: bytes, *, stream_on_wire: bool
) -> ModelCall | Lookup | None:
    """Read a model call or a lookup; None if it is not known to be safe to repeat."""
    if request.method == "GET":
        headers, connect = without_hops(request.headers), _connect_timeout(request)
        return Lookup(
            PreparedRequest(request.url, headers, b"", connect_timeout=connect, method="GET")
        )
    try:
        call = ModelCall(request, request.place[1], body, stream_on_wire=stream_on_wire)
    except ConfigurationError:  # it has no model, or is not JSON: let the server report it
        return None
    if call.shape is Shape.RESPONSES:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        if _has_any(fields, *_LASTING):
            return None
        call.continues = _has_any(fields, _CONTINUES)
    return None if call.delivers and call.shape not in FORMATS else call


def _has_any(fields: Mapping[str, msgspec.Raw], *names: str) -> bool:
    return any(bytes(fields.get(name, b"null")) not in (b"null", b"false") for name in names)


def _connect_timeout(request: SdkRequest) -> float:
    return min(CONNECT_TIMEOUT, request.timeouts.connect or CONNECT_TIMEOUT)


# ---------------------------------------------------------------- headers for us
# `x-stormbreak-priority` (interactive, batch or background), `x-stormbreak-deadline` (seconds from the arrival of the
# request), `x-stormbreak-tenant`, `x-stormbreak-label-NAME`, `x-stormbreak-retries`: a scope for this request alone.
# They are not sent on.

_LABEL = "label-"
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_COUNT = re.compile(r"[0-9]{1,9}")
_PRIORITIES = {priority.name.lower(): priority for priority in Priority}
_KNOWN = ("priority", "deadline", "tenant", "label-NAME", "retries")


def scope_from_headers(headers: Mapping[str, str]) -> Scope:
    """Return the scope of a request with these headers (lower-case names); they have precedence over the present scope.

    Raises:
        ConfigurationError: names a header that is unknown or has an invalid value.
    """
    if OURS not in "\n".join(headers):
        return current()
    given = {name[len(OURS) :]: value for name, value in headers.items() if name.startswith(OURS)}
    labels = {name[len(_LABEL) :]: given.pop(name) for name in [*given] if name.startswith(_LABEL)}
    own = Scope(
        _taken(given, "deadline", _deadline_at),
        _taken(given, "priority", _priority),
        _taken(given, "tenant", lambda text: checked_text(f"{OURS}tenant", text)),
        checked_labels(labels),
        _taken(given, "retries", _max_attempts),
    )
    for name in given:
        known = ", ".join(OURS + each for each in _KNOWN)
        raise ConfigurationError(f"no header is called {quoted(OURS + name)}; there are {known}")
    return current().around(own)


def _taken(given: dict[str, str], name: str, read: Callable[[str], R]) -> R | None:
    text = given.pop(name, None)
    return None if text is None else read(text)


def _deadline_at(text: str) -> float:
    if _SECONDS.fullmatch(text) is None:
        raise _wrong("deadline", "seconds, such as 30 or 2.5", text)
    return time.monotonic() + float(text)


def _priority(text: str) -> Priority:
    priority = _PRIORITIES.get(text.lower())
    if priority is None:
        raise _wrong("priority", f"one of {', '.join(_PRIORITIES)}", text)
    return priority


def _max_attempts(text: str) -> int:
    if _COUNT.fullmatch(text) is None:
        raise _wrong("retries", "a whole number, 0 or more", text)
    return int(text) + 1


def _wrong(name: str, rule: str, text: str) -> ConfigurationError:
    return ConfigurationError(f"{OURS}{name} must be {rule}, got {quoted(text)}")
