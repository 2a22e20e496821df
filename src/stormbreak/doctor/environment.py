"""Check the environment variables: policy switch, addresses, keys, proxies, certificates. No key is shown."""

import os
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from stormbreak.doctor.findings import Finding, Severity
from stormbreak.errors import ConfigurationError
from stormbreak.http.endpoint import origin_of, same_origin
from stormbreak.http.h1.connection_factory import tls_context
from stormbreak.http.h1.proxy import proxy_for
from stormbreak.http.policy_in_force import is_disabled
from stormbreak.llm.providers import PRESETS

_ANY_ORIGIN = origin_of(PRESETS["openai"].base_url, None)

_PAIRS = (
    ("STORMBREAK_BASE_URL", "STORMBREAK_API_KEY", None),
    ("OPENAI_BASE_URL", "OPENAI_API_KEY", "openai"),
    ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "anthropic"),
)
"""The variable of an address, that of its key, and the provider of the key."""


def check_environment(environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    if is_disabled(environ):
        yield Finding(
            Severity.WRONG,
            "policy-off",
            "STORMBREAK_DISABLED",
            "every policy is off",
            why="Each call is sent once, without limits, circuits or retries.",
            instead="unset STORMBREAK_DISABLED",
        )
    for address, key, owner in _PAIRS:
        yield from _check_address(environ, address, key, owner)
    for preset in PRESETS.values():
        name = preset.key_env or ""
        value = environ.get(name)
        if value and (error := _origin_error(preset.base_url, value)):
            yield _bad(name, error, "the key alone, without spaces and line breaks")
    yield from _check_proxy()
    if environ.get("SSL_CERT_FILE"):
        try:
            tls_context(environ)
        except ConfigurationError as error:
            yield _bad("SSL_CERT_FILE", str(error), "a file of PEM certificates, or unset it")


def _check_address(
    environ: Mapping[str, str], address: str, key: str, owner: str | None
) -> Iterator[Finding]:
    base_url = environ.get(address)
    if not base_url:
        if owner is None and environ.get(key):
            yield _bad(key, f"it is set without {address}", f"set {address}, or unset {key}")
        return
    error = _origin_error(base_url, environ.get(key) or None)
    if error:
        yield _bad(address, error, "https, a plain host, and the key in its own variable")
    elif owner and environ.get(key) and not same_origin(base_url, PRESETS[owner].base_url):
        yield Finding(
            Severity.NOTE,
            "key-elsewhere",
            address,
            f"{key} goes to {urlsplit(base_url).hostname}",
            why="A forgotten variable sends the key of one provider to another.",
            instead=f"leave it if you mean that host, or unset {address}",
        )


def _origin_error(base_url: str, key: str | None) -> str:
    try:
        origin_of(base_url, key)
    except ConfigurationError as error:  # its message has neither key nor password
        return str(error)
    return ""


def _check_proxy() -> Iterator[Finding]:
    try:
        proxy = proxy_for(_ANY_ORIGIN)
    except ConfigurationError as error:
        yield _bad(
            "HTTPS_PROXY or ALL_PROXY", str(error), "an http proxy, or a transport with inner="
        )
        return
    if proxy is not None:
        yield Finding(
            Severity.NOTE,
            "proxy",
            "HTTPS_PROXY or ALL_PROXY",
            f"calls go through a proxy at {urlsplit(proxy).hostname}",
            why="Its limits and timeouts add to the provider's: a 502 or 504 may come from the proxy.",
            instead="leave it, or NO_PROXY for hosts without a proxy",
        )


def _bad(where: str, what: str, instead: str) -> Finding:
    return Finding(
        Severity.WRONG,
        "bad-variable",
        where,
        what,
        why="Calls fail because of it, or go to another host than intended.",
        instead=instead,
    )
