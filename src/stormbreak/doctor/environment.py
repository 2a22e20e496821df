"""What the environment decides before any code does: switches, addresses, keys, proxies, certificates. No value of a key is told."""

import os
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from stormbreak.doctor.findings import Finding, Severity
from stormbreak.errors import ConfigurationError
from stormbreak.http.endpoint import origin_of, same_origin
from stormbreak.http.environment import is_disabled, proxy_for, tls_context
from stormbreak.llm.providers import PRESETS

_ANYWHERE = origin_of(PRESETS["openai"].base_url, None)

_PAIRS = (
    ("STORMBREAK_BASE_URL", "STORMBREAK_API_KEY", None),
    ("OPENAI_BASE_URL", "OPENAI_API_KEY", "openai"),
    ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "anthropic"),
)
"""Where an address stands, the key that goes there, and whose key that is by its name."""


def surroundings(environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """What is wrong or remarkable in the environment."""
    if is_disabled(environ):
        yield Finding(
            severity=Severity.WRONG,
            name="policy-off",
            where="STORMBREAK_DISABLED",
            what="every policy is off",
            why="Each call is sent once, and nothing is held back, limited or retried.",
            instead="unset STORMBREAK_DISABLED",
        )
    for address, key, owner in _PAIRS:
        yield from _address(environ, address, key, owner)
    yield from _keys(environ)
    yield from _proxy()
    yield from _certificates(environ)


def _address(
    environ: Mapping[str, str], address: str, key: str, owner: str | None
) -> Iterator[Finding]:
    base_url = environ.get(address)
    if not base_url:
        if owner is None and environ.get(key):
            yield _odd(key, f"it is set without {address}", f"set {address}, or unset {key}")
        return
    complaint = _complaint(base_url, environ.get(key) or None)
    if complaint:
        yield _odd(address, complaint, "https, with a plain host, and the key in its own variable")
    elif owner and environ.get(key) and not same_origin(base_url, PRESETS[owner].base_url):
        yield Finding(
            severity=Severity.NOTE,
            name="key-elsewhere",
            where=address,
            what=f"{key} goes to {urlsplit(base_url).hostname}",
            why="A variable that is left over sends one provider's key to another.",
            instead=f"leave it if that host is meant, or unset {address}",
        )


def _keys(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Keys that cannot be keys: with a line break at the end, most of the time."""
    for preset in PRESETS.values():
        key = environ.get(preset.key_env or "")
        if key and (complaint := _complaint(preset.base_url, key)):
            assert preset.key_env is not None
            yield _odd(preset.key_env, complaint, "the key alone, without blanks and line breaks")


def _complaint(base_url: str, key: str | None) -> str:
    try:
        origin_of(base_url, key)
    except ConfigurationError as error:  # which repeats neither key nor password
        return str(error)
    return ""


def _proxy() -> Iterator[Finding]:
    try:
        proxy = proxy_for(_ANYWHERE)
    except ConfigurationError as error:
        yield _odd("HTTPS_PROXY or ALL_PROXY", str(error), "an http proxy, or a door with inner=")
        return
    if proxy is not None:
        yield Finding(
            severity=Severity.NOTE,
            name="proxy",
            where="HTTPS_PROXY or ALL_PROXY",
            what=f"calls go through a proxy at {urlsplit(proxy).hostname}",
            why="Its limits and timeouts stand in front of the provider's: a 502 or 504 may be its own.",
            instead="leave it, or NO_PROXY for the hosts that need none",
        )


def _certificates(environ: Mapping[str, str]) -> Iterator[Finding]:
    if not environ.get("SSL_CERT_FILE"):
        return
    try:
        tls_context(environ)
    except ConfigurationError as error:
        yield _odd("SSL_CERT_FILE", str(error), "a file of certificates in PEM, or unset it")


def _odd(where: str, what: str, instead: str) -> Finding:
    return Finding(
        severity=Severity.WRONG,
        name="bad-variable",
        where=where,
        what=what,
        why="Calls are refused for it, or go elsewhere than somebody thinks.",
        instead=instead,
    )
