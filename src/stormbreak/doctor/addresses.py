"""Where a client sends, and with what: a key over plain http, an address that is none."""

from collections.abc import Iterator
from typing import Any

from stormbreak.doctor.findings import Finding, Severity
from stormbreak.doctor.reaching import ClientLayer, read
from stormbreak.doctor.way import RequestPath
from stormbreak.errors import ConfigurationError
from stormbreak.http.origin import origin_of

_NO_KEY = "<missing API key>"  # so openai's clients of Azure say that they have another credential
_KEY_HEADERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")


def addresses(way: RequestPath) -> Iterator[Finding]:
    """What is wrong with the address and the key of the SDK, or of the HTTP client where there is none."""
    layer = way.sdk or way.http
    if layer is None:
        return
    base_url = str(read(layer.thing, "base_url") or "")
    if not base_url.strip("/"):
        return  # each request of an HTTP client may name its own
    try:
        origin_of(base_url, _key(layer))
    except ConfigurationError as error:  # which repeats neither key nor password
        yield Finding(
            severity=Severity.WRONG,
            name="bad-address",
            where=f"{layer.path}.base_url",
            what=str(error),
            why="A key belongs to one origin, and is read by everybody on the way where it travels in the clear.",
            instead="https, with a plain host and the key in the variable or argument meant for it",
        )


def _key(layer: ClientLayer) -> str | None:
    """The key that goes along, if it can be told; of one that is made for each request, only that there is one."""
    thing = layer.thing
    for name in ("api_key", "auth_token"):
        said: Any = read(thing, name)
        if said == _NO_KEY:
            said = True  # tokens are asked for instead
        if isinstance(said, str) and said:
            return said
        if said:
            return "made-for-each-request"
    headers = getattr(thing, "headers", {})
    said = next((headers[name] for name in _KEY_HEADERS if name in headers), None)
    return said.rpartition(" ")[2] or None if isinstance(said, str) else None
