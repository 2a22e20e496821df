"""What is sent for a request of an SDK: to its own target as the SDK wrote it, elsewhere as it is wanted there."""

from collections.abc import Mapping

import msgspec

from stormbreak.errors import ConfigurationError
from stormbreak.http.exchange import Asked
from stormbreak.http.h1.connection import CONNECT_TIMEOUT
from stormbreak.http.request_template import Asking
from stormbreak.http.routes import Route
from stormbreak.http.transports.sdk_request import NO_MODEL, SdkRequest
from stormbreak.llm.models import Shape
from stormbreak.llm.stream_formats import FORMATS
from stormbreak.types import Target, Usage

_LASTING = ("background", "conversation")  # what such a response leaves behind would be there twice


class Ask(Asking):
    """A request for an answer of a model."""

    def __init__(
        self, request: SdkRequest, endpoint: str, body: bytes, *, on_wire: bool = False
    ) -> None:
        super().__init__(
            endpoint, body, on_wire=on_wire, key=request.headers.get("idempotency-key")
        )
        self._request = request
        self._own: Target | None = None

    @property
    def model(self) -> str:
        """Whom it asks."""
        return self.wanted.model

    @property
    def delivers(self) -> bool:
        """Whether the SDK wants the answer as it comes."""
        return bool(self.wanted.stream)

    def to(self, route: Route) -> Asked:
        """What is sent there; the first it is asked for is its own target."""
        known = self._sent.get(route.target)
        if known is not None:
            return known
        asked = super().to(route)
        if self._own is None:
            self._own = route.target
            own = {"accept": "text/event-stream"} if self.streamed and not self.delivers else {}
            headers = (
                self._request.forwarded_headers(more={"idempotency-key": asked.idempotency_key})
                | own
            )
            asked = _as_written(asked, self._request, headers)
            self._sent[route.target] = asked
        return asked


class Look:
    """A request that only reads."""

    model = NO_MODEL
    delivers = begins = streamed = False
    shape = Shape.RESOURCE

    def __init__(self, request: SdkRequest) -> None:
        asked = Asked("", b"", Shape.RESOURCE, streamed=False, choices=1, idempotency_key="")
        self._asked = _as_written(asked, request, request.forwarded_headers())._replace(
            method="GET"
        )

    def to(self, _route: Route) -> Asked:
        """What is sent."""
        return self._asked

    def bind(self, _tokens: int | None, _provider: str) -> None:
        """It has no answer of a model."""

    def tokens(self) -> int:
        """It uses none."""
        return 0

    def bound(self) -> Usage:
        """It uses none."""
        return Usage()

    def unbounded(self) -> str:
        """Nothing is."""
        return ""


def asked_in(
    request: SdkRequest, endpoint: str, body: bytes, *, on_wire: bool
) -> Ask | Look | None:
    """What the request asks; None where it is nothing that is known to be safe to repeat."""
    if request.is_lookup:
        return Look(request)
    try:
        ask = Ask(request, endpoint, body, on_wire=on_wire)
    except ConfigurationError:  # it names no model, or is no JSON: let the server say so
        return None
    if ask.shape is Shape.RESPONSES and _lasts(body):
        return None
    return None if ask.delivers and ask.shape not in FORMATS else ask


def _lasts(body: bytes) -> bool:
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return any(bytes(fields.get(name, b"null")) not in (b"null", b"false") for name in _LASTING)


def _as_written(asked: Asked, request: SdkRequest, headers: Mapping[str, str]) -> Asked:
    connect = min(CONNECT_TIMEOUT, request.spans.connect or CONNECT_TIMEOUT)
    return asked._replace(url=request.url, headers=headers, connect_timeout=connect)
