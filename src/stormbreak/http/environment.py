"""Settings from the environment: keys, base URLs, certificates, the off switch. Proxies: `h1.proxy`.

Keys come from, in this order: the variable the user named; the named provider's own variable, for its own
address only; `STORMBREAK_API_KEY` together with `STORMBREAK_BASE_URL`; `OPENAI_API_KEY`, but only together with
`OPENAI_BASE_URL` or for OpenAI's own address, so that no key gets to another host.
"""

import os
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple
from urllib.parse import urlsplit

from stormbreak.core import presets
from stormbreak.core.checks import require
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.presets import OFF, is_off
from stormbreak.core.tenant import TenantLimits
from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import VARIABLE, has_key_prefix, holds_token, is_constant, quoted
from stormbreak.http.endpoint import DynamicKey, Origin, origin_of, same_origin
from stormbreak.llm.providers import PRESETS, KnownProvider, preset


class ProviderEndpoint(NamedTuple):
    """A provider's name, as it appears in targets, and its origin.

    In a settings file it has a `name`, and its own `policy`. A `key` function is called before each attempt.
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
    """Find where to send, and the key; `provider` names a preset, `base_url` overrides its address.

    Raises:
        ConfigurationError: there is no address, or a needed key is missing; names the variable.
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


def key_variables(
    provider: str | None, base_url: str | None, environ: Mapping[str, str] = os.environ
) -> list[str]:
    """Return the variables that may hold the key, in their order; raise ConfigurationError if there is no address."""
    known = preset(provider) if provider else None
    if base_url is None:
        base_url = known.base_url if known else _base_url(environ)
    return _candidates(known, base_url, environ)


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
    """Return the variable of that name; an error never shows it, since it may be the key itself."""
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


def tls_context(environ: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """Return the trusted certificates: those in SSL_CERT_FILE, or those of this machine, or if it has none, certifi's.

    Raises:
        ConfigurationError: SSL_CERT_FILE holds no certificates that can be read.
    """
    path = environ.get("SSL_CERT_FILE")
    try:
        context = ssl.create_default_context(cafile=path or None)
    except OSError as error:
        reason = error.strerror or "no certificates in it"
        raise ConfigurationError(f"SSL_CERT_FILE {path}: {reason}") from None
    places = ssl.get_default_verify_paths()
    known = path or places.cafile or places.capath or context.cert_store_stats()["x509_ca"]
    if not known:  # as some builds of Python
        with suppress(ImportError):
            import certifi  # noqa: PLC0415 - comes with the SDKs' HTTP libraries

            context.load_verify_locations(certifi.where())
    return context


def is_disabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether STORMBREAK_DISABLED turns every policy off."""
    return environ.get("STORMBREAK_DISABLED", "") not in ("", "0")


SHARE = "STORMBREAK_SHARE"  # the variable that says which part of the limits is for this process


def share(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return the share of the limits that STORMBREAK_SHARE gives this process: `1/4`, or `0.25`; None if unset.

    Raises:
        ConfigurationError: it is no share; shows the value.
    """
    value = environ.get(SHARE)
    if not value:
        return None
    try:
        part = float(Fraction(value))
    except (ValueError, ZeroDivisionError, OverflowError):
        part = 0.0
    require(0 < part <= 1, f"{SHARE} must be a part, such as 1/4 or 0.25", quoted(value))
    return part


def in_force(policy: Policy | str, fleet: FleetPolicy | str | None = None) -> Policy:
    """Return the policy in force: the given one, or that of a preset or a file, with its share; `OFF` if all are turned off.

    The environment's share applies to policies that set none. `fleet` replaces the fleet of the policy; a text is its
    URL.
    """
    chosen = _named(policy) if isinstance(policy, str) else policy
    if fleet is not None:
        shared = fleet if isinstance(fleet, FleetPolicy) else replace(chosen.fleet, url=fleet)
        chosen = replace(chosen, fleet=shared)
    if is_disabled():
        return chosen if is_off(chosen) else OFF
    part = share() if chosen.process_share == 1.0 else None
    return chosen if part is None else replace(chosen, process_share=part)


def tenants_in_force(tenants: Mapping[str, TenantLimits] | None) -> Mapping[str, TenantLimits]:
    """Return the limits of tenants in force: none if all policies are turned off."""
    return {} if tenants is None or is_disabled() else tenants


def _named(policy: str) -> Policy:
    if policy in presets.PRESETS:
        return presets.PRESETS[policy]
    # Imported here: most clients read no file.
    from stormbreak.config.load import resolve_policy  # noqa: PLC0415

    return resolve_policy(policy)
