"""Origins and their API keys: where requests may go, and which key belongs there.

A key belongs to one origin and is never sent to another. Redirects are not followed, so the origin of a
request is known before it is sent.

Keys come from these sources, in this order: the variable that the user named; the named provider's own variable, only
for the provider's own address; `STORMBREAK_API_KEY`, together with `STORMBREAK_BASE_URL`; `OPENAI_API_KEY`, together
with `OPENAI_BASE_URL` or for OpenAI's own address. So no key gets to another host.
"""

import asyncio
import inspect
import os
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2s
from ipaddress import ip_address
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import SplitResult, unquote_plus, urlsplit, urlunsplit

from stormbreak.core.policy import Policy
from stormbreak.drivers.blocking import foreign
from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import VARIABLE, has_key_prefix, holds_token, is_constant, quoted
from stormbreak.http.h1.address import PORTS
from stormbreak.http.prepared_request import IDEMPOTENCY_KEY, FixedHead, KeyedHeaders
from stormbreak.llm.endpoints import Shape, shape_of
from stormbreak.llm.providers import PRESETS, KnownProvider, key_headers, preset
from stormbreak.types import Outcome, Verdict

_SALT = secrets.token_bytes(16)  # digests distinguish keys only within one process
_HOST = re.compile(r"[\w-]+(\.[\w-]+)*\.?|[0-9a-f]*:[0-9a-f:.]+(%[\w.-]+)?")
_PATH = re.compile(r"[\w.~:@-]+(/[\w.~:@-]+)*/?", re.ASCII)  # no "%": it can spell ".." and "/"
_QUERY = re.compile(r"[\w.~:@/=&%+-]*", re.ASCII)
_OWN_HEADERS = {"Content-Type": "application/json", "User-Agent": "stormbreak"}
_HIDDEN = "what looks like a key"
_SCHEMES = ("http", "https")
_MAX_HOST = 253  # RFC 1035, without the last dot
_KEY_PART = re.compile(r"(?=[a-z]*[0-9])[a-z0-9]{16,}", re.IGNORECASE | re.ASCII)
_MAX_SCHEME = 12
_ENDPOINTS = 64  # size of the cache; few users have more than three
_KEY_PARAMETERS = frozenset(
    {"key", "apikey", "api-key", "api_key", "x-api-key", "subscription-key", "access_token"}
)


Passed: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values of headers."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A base URL and its key. The key appears in no repr, and only in requests to this origin.

    `headers` are the headers of every request there, with the key, by requested shape.
    """

    base_url: str
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[Shape, dict[str, str]] = field(init=False, repr=False, compare=False)
    _fixed: dict[tuple[str, Passed], FixedHead] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        host = self.host.removesuffix(".")
        made = {shape: _OWN_HEADERS | key_headers(host, self.api_key, shape) for shape in Shape}
        object.__setattr__(self, "headers", made)

    def keyed_headers(self, endpoint: str, more: Passed, key: str) -> KeyedHeaders:
        """Return the headers of a request to an endpoint, with `more` headers; raise as `url_of` does."""
        fixed = self._fixed.get((endpoint, more))
        if fixed is None:
            if len(self._fixed) >= _ENDPOINTS:
                self._fixed.clear()
            headers = {**self.headers[shape_of(endpoint)], **dict(more)}
            fixed = self._fixed[endpoint, more] = FixedHead(self.url_of(endpoint), headers)
        keyed = KeyedHeaders(fixed.headers)
        keyed[IDEMPOTENCY_KEY], keyed.fixed = key, fixed
        return keyed

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).hostname or ""

    @property
    def key_digest(self) -> str:
        """Eight hex digits that distinguish this key from others within this process."""
        if self.api_key is None:
            return ""
        return blake2s(self.api_key.encode(), key=_SALT, digest_size=4).hexdigest()

    def url_of(self, endpoint: str) -> str:
        """Return the full URL of an endpoint such as "chat/completions"; a key among its parameters is removed.

        Raises:
            ConfigurationError: the endpoint is not a path below the base URL.
        """
        path, _, query = endpoint.partition("?")
        path = path.removeprefix("/")
        climbs = any(part in (".", "..") for part in path.split("/"))
        if climbs or not _PATH.fullmatch(path) or not _QUERY.fullmatch(query):
            raise ConfigurationError(
                f"endpoint must be a path below the base URL, got {quoted(path)}"
            )
        query = "&".join(pair for pair in query.split("&") if not _names_key(pair))
        url = f"{self.base_url}/{path}"
        return f"{url}?{query}" if query else url


def _names_key(pair: str) -> bool:
    return unquote_plus(pair.partition("=")[0]).strip().lower() in _KEY_PARAMETERS


def origin_of(base_url: str, api_key: str | None, *, allow_http: bool = False) -> Origin:
    """Check a base URL and tie the key to it.

    Raises:
        ConfigurationError: not an http(s) URL, or a key would travel in the clear to another machine.
    """
    parts = _split(base_url)
    host, port = parts.hostname, parts.port
    if parts.scheme not in _SCHEMES or not host:
        raise ConfigurationError(f"base_url must look like https://host/v1, got {_shown(parts)}")
    if "@" in parts.netloc:
        raise ConfigurationError(f"base_url must hold no user or password (host {_host_in(parts)})")
    if not is_host(host):
        raise ConfigurationError(f"base_url has an invalid host: {_host_in(parts)}")
    if _is_key(host):
        raise ConfigurationError(f"base_url has {_HIDDEN} instead of a host")
    if api_key is not None:
        _check_key(api_key)
        if parts.scheme == "http" and not is_loopback(host) and not allow_http:
            raise ConfigurationError(
                f"base_url is plain http to {_host_in(parts)}: the key would travel in the clear; use https"
            )
    netloc = f"[{host}]" if ":" in host else host
    netloc = netloc if port is None else f"{netloc}:{port}"
    return Origin(urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", "")), api_key)


def is_host(host: str) -> bool:
    """Whether this is a valid name or address of a host, by its form and the lengths that DNS allows."""
    if not _HOST.fullmatch(host):
        return False
    if ":" in host:
        return True
    try:
        name = host.encode("idna").decode()  # raises if a part is longer than 63
    except UnicodeError:
        return False
    return len(name.removesuffix(".")) <= _MAX_HOST


def _is_key(host: str) -> bool:
    """Whether the host is a key, which would be looked up and shown. URLs lower its case."""
    return (
        "." not in host
        and has_key_prefix(host, any_case=True)
        and _KEY_PART.search(host) is not None
    )


def same_origin(one: str, other: str) -> bool:
    """Whether two URLs share scheme, host and port."""
    return _place(one) == _place(other)


def _place(url: str) -> tuple[str, str | None, int | None]:
    parts = _split(url)
    return parts.scheme, parts.hostname, parts.port or PORTS.get(parts.scheme)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url.strip())
        _ = parts.port  # parsed on access
    except ValueError:
        parts = None
    if parts is None:  # raised here, since the ValueError repeats the URL
        raise ConfigurationError("base_url cannot be read as a URL")
    return parts


def _check_key(api_key: str) -> None:
    if not api_key.strip():
        raise ConfigurationError("the API key is empty")
    if not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise ConfigurationError("the API key holds a blank, a line break or another odd character")


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine by name or address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(parts: SplitResult) -> str:
    """Return scheme and host, for an error; a long scheme may be a key before a colon."""
    if not parts.netloc and parts.scheme not in _SCHEMES:  # such as localhost:80
        return "one without http:// or https://"
    scheme = repr(parts.scheme) if len(parts.scheme) <= _MAX_SCHEME else _HIDDEN
    return f"scheme {scheme} and host {_host_in(parts)}"


def _host_in(parts: SplitResult) -> str:
    """Return the host in quotes. Full names often look like tokens, so only a known kind of key is hidden in them."""
    host = parts.netloc.rpartition("@")[2]  # as written, since a key has capitals
    hidden = has_key_prefix(host, any_case=True) or ("." not in host and holds_token(host))
    return _HIDDEN if hidden else repr(parts.hostname)


# ---------------------------------------------------------------- keys from a function
# The function is called before each attempt, so that a retry has the key that is valid then.

KeyFunction: TypeAlias = Callable[[], str | Awaitable[str]]
"""Returns a key, or a coroutine that does. It runs on the event loop: use a coroutine function for slow work."""


class DynamicKey:
    """The key of one origin, from a function. A random stand-in distinguishes it from other keys."""

    def __init__(self, function: KeyFunction) -> None:
        self._function = function
        self._last: tuple[str, Origin] | None = None
        self.stand_in = secrets.token_hex(16)

    async def ask(self, origin: Origin, *, allow_http: bool) -> Origin | Outcome:
        """Return the origin with its key; if the function fails, an outcome without its message, which may hold it."""
        try:
            key: Any = self._function()
            if inspect.isawaitable(key):
                key = await foreign(key)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - it is the user's
            return _failed(type(error).__name__)
        if not isinstance(key, str):
            return _failed(f"it returned a {type(key).__name__}")
        try:
            return self._origin(origin, key, allow_http=allow_http)
        except ConfigurationError as error:
            return _failed(str(error))

    def _origin(self, origin: Origin, key: str, *, allow_http: bool) -> Origin:
        last = self._last
        if last is not None and last[0] == key and last[1].base_url == origin.base_url:
            return last[1]
        made = origin_of(origin.base_url, key, allow_http=allow_http)
        self._last = key, made
        return made


def _failed(why: str) -> Outcome:
    return Outcome(Verdict.AUTH, detail=f"the key function failed: {why}")


# ---------------------------------------------------------------- an endpoint from the environment


class ProviderEndpoint(NamedTuple):
    """A provider's name, as it appears in targets, and its origin.

    In a settings file it has a `name`, and may have a `policy`. A `key` function is called before each attempt.
    """

    provider: str
    origin: Origin
    name: str = ""
    policy: Policy | None = None
    key: DynamicKey | None = None
    allow_http: bool = False


def find_endpoint(
    provider: str | None = None,
    *,
    base_url: str | None = None,
    api_key: str | DynamicKey | None = None,
    api_key_env: str | None = None,
    allow_http: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> ProviderEndpoint:
    """Find the address and the key; `provider` names a preset, `base_url` overrides its address.

    Raises:
        ConfigurationError: there is no address, or a required key is missing; names the variable.
    """
    known = preset(provider) if provider else None
    if base_url is None:
        base_url = known.base_url if known else _base_url(environ)
    dynamic = api_key if isinstance(api_key, DynamicKey) else None
    if isinstance(api_key, DynamicKey):
        api_key = api_key.stand_in
    elif api_key is None:
        api_key = _key(known, base_url, api_key_env, environ)
    origin = origin_of(base_url, api_key, allow_http=allow_http)
    if api_key is None and known is not None and known.key_env is not None:
        raise ConfigurationError(_no_key(known, origin))
    name = known.name if known else _name_of(origin)
    return ProviderEndpoint(name, origin, key=dynamic, allow_http=allow_http)


def _base_url(environ: Mapping[str, str]) -> str:
    for name in ("STORMBREAK_BASE_URL", "OPENAI_BASE_URL"):
        if environ.get(name):
            return environ[name]
    if environ.get("OPENAI_API_KEY"):
        return PRESETS["openai"].base_url
    raise ConfigurationError(
        "no provider: name one, or give a base URL, or set STORMBREAK_BASE_URL"
    )


def _key(
    known: KnownProvider | None, base_url: str, named: str | None, environ: Mapping[str, str]
) -> str | None:
    if named is not None:
        return _value_of(named, environ)
    candidates = _candidates(known, base_url, environ)
    return next((environ[name] for name in candidates if environ.get(name)), None)


def key_variables(provider: str | None, base_url: str | None) -> list[str]:
    """Return the variables that may hold the key, in order; raise ConfigurationError if there is no address."""
    known = preset(provider) if provider else None
    if base_url is None:
        base_url = known.base_url if known else _base_url(os.environ)
    return _candidates(known, base_url, os.environ)


def _candidates(
    known: KnownProvider | None, base_url: str, environ: Mapping[str, str]
) -> list[str]:
    candidates: list[str] = []
    if known is not None and known.key_env and same_origin(base_url, known.base_url):
        candidates.append(known.key_env)
    if _is_that_of(environ.get("STORMBREAK_BASE_URL"), base_url):
        candidates.append("STORMBREAK_API_KEY")
    openai = PRESETS["openai"].base_url
    if _is_that_of(environ.get("OPENAI_BASE_URL"), base_url) or same_origin(base_url, openai):
        candidates.append("OPENAI_API_KEY")
    return [*dict.fromkeys(candidates)]


def _value_of(named: str, environ: Mapping[str, str]) -> str:
    """Return the value of a variable; an error never shows what looks like a key."""
    is_name = VARIABLE.fullmatch(named) is not None
    if is_name and environ.get(named):
        return environ[named]
    if has_key_prefix(named) or (holds_token(named) and not is_constant(named)):
        raise ConfigurationError(
            "api_key_env looks like a key, not like the name of a variable: put the key into a variable"
        )
    if not is_name:
        raise ConfigurationError(
            "api_key_env must be the name of a variable: letters, digits and _, no digit first"
        )
    raise ConfigurationError(f"no API key: the environment variable {named} is not set")


def _is_that_of(other: str | None, base_url: str) -> bool:
    return same_origin(base_url, other) if other else False


def _no_key(known: KnownProvider, origin: Origin) -> str:
    if same_origin(origin.base_url, known.base_url):
        return f"no API key: set {known.key_env}"
    return (
        f"no API key for {origin.host}: {known.key_env} belongs to {urlsplit(known.base_url).hostname};"
        " name the variable (api_key_env) that holds the key of this address"
    )


def _name_of(origin: Origin) -> str:
    """Return the name of the preset with this base URL, else the host and port."""
    for known in PRESETS.values():
        if known.base_url == origin.base_url:
            return known.name
    return urlsplit(origin.base_url).netloc
