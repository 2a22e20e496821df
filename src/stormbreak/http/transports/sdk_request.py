"""What an SDK asks for, read from its HTTP request: where, with which key, and whether it may be sent again.

Only what is known to be safe to repeat goes through an engine. All else passes.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from stormbreak.llm.models import FREE, Shape, endpoint_of

OURS = "x-stormbreak-"
"""How the headers begin that are meant for us."""

NO_MODEL = "-"
"""The model of targets that are asked for lists and the like."""

_KEY_HEADERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
_KEY_PARAMETER = "key"
_RETRY_COUNT = "x-stainless-retry-count"
_PLACES = 64  # addresses that are remembered
_NOT_PASSED = frozenset(
    {
        "accept-encoding",  # whoever carries the request unpacks the answer, and says what it can
        "connection", "content-length", "keep-alive", "proxy-authenticate", "proxy-authorization",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip


class Spans(NamedTuple):
    """The timeouts of a request in seconds; None: none."""

    connect: float | None = None
    read: float | None = None


class SdkRequest(NamedTuple):
    """One request of an SDK. Header names are lower-case. Its repr shows neither key nor prompt."""

    method: str
    url: str
    headers: Mapping[str, str]
    spans: Spans = Spans()

    @property
    def key(self) -> str | None:
        """The key in it, wherever it stands."""
        for name in _KEY_HEADERS:
            word = self.headers.get(name, "").rpartition(" ")[2]
            if word:
                return word
        query = dict(parse_qsl(urlsplit(self.url).query))
        return query.get(_KEY_PARAMETER)

    @property
    def sdk_retry_count(self) -> int:
        """Which retry of the SDK's own this is; 0: none, as far as it says."""
        said = self.headers.get(_RETRY_COUNT, "")
        return int(said) if said.isascii() and said.isdigit() else 0

    @property
    def is_model_call(self) -> bool:
        """Whether it asks a model for something that may be asked for again; its body is still to be looked into."""
        return (
            self.method == "POST"
            and _endpoint_in(self.url.partition("?")[0]) is not None
            and _is_json(self.headers.get("content-type", ""))
        )

    @property
    def is_lookup(self) -> bool:
        """Whether it reads something, as one piece of JSON; openai asks for streams as if they were."""
        return (
            self.method == "GET"
            and _is_json(self.headers.get("accept", ""))
            and ("stream", "true") not in parse_qsl(urlsplit(self.url).query)
        )

    @property
    def place(self) -> tuple[str, str]:
        """The base URL and the endpoint behind it; neither has a query."""
        return _place(self.url.partition("?")[0])

    def forwarded_headers(self, *, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Its headers, without those of one hop and those that are meant for us; `more` where it has none of the name."""
        return dict(more or {}) | without_hops(self.headers.items())

    def __repr__(self) -> str:
        return f"DoorRequest({self.method} {self.url.partition('?')[0]!r})"


def without_hops(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The headers that are for more than one connection, and not for us."""
    return {
        name: value
        for name, value in headers
        if name not in _NOT_PASSED and not name.startswith(OURS)
    }


def spans_in(extensions: Mapping[str, Any]) -> Spans:
    """The timeouts in the extensions of a request."""
    said = extensions.get("timeout") or {}
    return Spans(*(_span(said.get(name)) for name in Spans._fields))


def _span(said: Any) -> float | None:
    return float(said) if isinstance(said, int | float) and said > 0 else None


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


@lru_cache(_PLACES)
def _place(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    endpoint = _endpoint_in(url) or "/" + parts.path.rpartition("/")[2]
    base = parts.path[: len(parts.path) - len(endpoint)]
    return urlunsplit((parts.scheme, parts.netloc, base, "", "")), endpoint[1:]


@lru_cache(_PLACES)
def _endpoint_in(url: str) -> str | None:
    """The end of the path, if it is an endpoint that is safe to repeat."""
    path = urlsplit(url).path
    for end in FREE:
        if path.endswith(end):
            return end
    if endpoint_of(path) is Shape.JSON:
        return None
    return "/chat/completions" if path.endswith("/chat/completions") else path[path.rindex("/") :]
