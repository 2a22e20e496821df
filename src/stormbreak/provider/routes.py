"""Responses without work: models, statistics, reset, and errors of a request."""

from collections.abc import Callable
from typing import Any

import msgspec

from stormbreak.http.h1.request_parser import Headers, Request
from stormbreak.provider.chance import mix
from stormbreak.provider.formats.base import BORN, Format, Refusal, encode
from stormbreak.provider.formats.chat import CHAT
from stormbreak.provider.formats.messages import MESSAGES
from stormbreak.provider.formats.registry import FORMATS
from stormbreak.provider.scenario import Provider
from stormbreak.provider.scripts import Script, plain

_KEYS = (b"authorization", b"x-api-key", b"api-key")


def format_at(path: str) -> Format:
    """Return the format of this route, or of the API that it belongs to."""
    default = MESSAGES if path.startswith("/v1/messages/") else CHAT
    return FORMATS.get(path, default)


class Routes:
    """The routes of a provider."""

    def __init__(
        self,
        provider: Provider,
        *,
        seed: int,
        stats: Callable[[], dict[str, Any]],
        reset: Callable[[], None],
    ) -> None:
        self._provider = provider
        self._salt = mix(seed)
        self._identities = 0
        self._do_reset = reset
        self._routes: dict[str, tuple[str, Callable[[], bytes]]] = {
            "/v1/models": ("GET", self._models),
            "/_provider/stats": ("GET", lambda: msgspec.json.encode(stats())),
            "/_provider/reset": ("POST", self._reset),
            **dict.fromkeys(FORMATS, ("POST", bytes)),
        }

    def answer(self, request: Request) -> Script:
        route = self._routes.get(request.path)
        if route is None:
            refusal = Refusal(404, "no such route", code="unknown_url")
            return self.error(refusal, request.path)
        method, body = route
        if request.method != method:
            refusal = Refusal(405, f"only {method} is allowed here", code="method_not_allowed")
            return self.error(refusal, request.path, ("allow", method))
        wrong = self.unauthorized(request) if request.path.startswith("/v1/") else None
        return self.error(wrong, request.path) if wrong else plain(200, body(), self.headers())

    def unauthorized(self, request: Request) -> Refusal | None:
        """Require any key, if the scenario asks for one."""
        if not self._provider.require_key or any(map(request.headers.get, _KEYS)):
            return None
        return Refusal(401, "no API key was provided", code="invalid_api_key")

    def error(self, refusal: Refusal, path: str = "", *more: tuple[str, str]) -> Script:
        body = format_at(path).error(refusal)
        return plain(refusal.status, body, self.headers() + more)

    def headers(self) -> Headers:
        """Return the headers of the next answer, with a request id."""
        self._identities += 1
        return (("x-request-id", f"req_{mix(self._salt + self._identities):016x}"),)

    def _models(self) -> bytes:
        data = [
            {"id": name, "object": "model", "created": BORN, "owned_by": "stormbreak"}
            for name in self._provider.models
        ]
        return encode({"object": "list", "data": data})

    def _reset(self) -> bytes:
        self._do_reset()
        return b'{"reset":true}'
