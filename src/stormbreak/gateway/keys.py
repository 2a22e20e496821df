"""Client keys: found by their digest, wrong ones throttled by address."""

import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from secrets import token_urlsafe
from types import MappingProxyType
from typing import NamedTuple

from stormbreak.config.gateway_settings import KeySettings
from stormbreak.core.rate_limit_gate import Bucket
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.tenant import TenantLimits
from stormbreak.drivers.scope import Scope, checked_labels, checked_text
from stormbreak.errors import ConfigurationError
from stormbreak.gateway.errors import RefusedError
from stormbreak.types import Target

KEY_PREFIX = "sb-"
PLACEHOLDER = "0" * 32  # the start of the digests in examples; no key has such a digest
GUESSES = 20  # wrong keys of one address that are checked per minute
MAX_ADDRESSES = 10_000  # addresses that are remembered


def new_key() -> str:
    return KEY_PREFIX + token_urlsafe(32)


def digest_of(key: bytes) -> str:
    """Return the digest of a key, as in a settings file."""
    return sha256(key).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class LimitHolder:
    """A key or a tenant (`kind`) with its limits.

    `title` is its name in messages, the ledger and the fleet, such as "tenant research". Calls that have to wait for
    its limits wait for `target`.
    """

    kind: str
    name: str
    limits: TenantLimits
    title: str = field(init=False)
    target: Target | None = field(init=False)

    def __post_init__(self) -> None:
        set_value = partial(object.__setattr__, self)
        set_value("title", f"{self.kind} {self.name}")
        set_value("target", Target("client", "", name=self.title) if self.limits.waits else None)


class ClientKey(NamedTuple):
    """A key with its name and the scope of its calls.

    `holders` are the key itself and its tenant, if they have limits; `spends` are their spend limits. `metered`: the
    tokens of its calls count for a limit.
    """

    name: str
    settings: KeySettings
    scope: Scope
    holders: tuple[LimitHolder, ...]
    spends: tuple[SpendPolicy, ...]
    metered: bool


def all_holders(keys: Iterable[ClientKey]) -> tuple[LimitHolder, ...]:
    """Return the holders of limits; a tenant of several keys appears once."""
    return tuple({holder.title: holder for key in keys for holder in key.holders}.values())


def client_keys(
    settings: Mapping[str, KeySettings], tenants: Mapping[str, TenantLimits] = MappingProxyType({})
) -> dict[str, ClientKey]:
    """Return the keys of a settings file, by digest; `tenants` have limits for all of their keys together.

    Raises ConfigurationError that names the invalid tenant or label, or the digest of an example.
    """
    keys = {}
    for name, key in settings.items():
        if key.sha256.startswith(PLACEHOLDER):
            raise ConfigurationError(
                f"keys.{name}.sha256 is a placeholder: `stormbreak gateway key new {name}` prints a key and its digest"
            )
        tenant = name if key.tenant is None else checked_text(f"keys.{name}.tenant", key.tenant)
        labels = checked_labels(key.labels)
        scope = Scope(None, key.priority, tenant, labels)
        holders = [LimitHolder("key", name, key)]
        if tenant in tenants:
            holders.append(LimitHolder("tenant", tenant, tenants[tenant]))
        acting = tuple(each for each in holders if each.limits.acts)
        spends = tuple(each.limits.spend for each in acting if each.limits.spend.acts)
        metered = bool(spends) or any(each.limits.tpm is not None for each in acting)
        keys[key.sha256] = ClientKey(name, key, scope, acting, spends, metered)
    return keys


class Guesses:
    """Throttles wrong keys by address. A valid key is never throttled: many clients may share an address."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def wrong(self, address: str, given: bytes | None) -> RefusedError:
        if given is None:
            return RefusedError(401, "missing_api_key", "no API key was sent")
        now, buckets = time.monotonic(), self._buckets
        bucket = buckets.get(address)
        if bucket is None:
            bucket = buckets[address] = Bucket(GUESSES / 60, 60.0)
            if len(buckets) > MAX_ADDRESSES:
                buckets.popitem(last=False)
        buckets.move_to_end(address)
        ready_at = bucket.ready_at(1)
        if ready_at > now:
            message = "too many wrong API keys from this address"
            return RefusedError(429, "too_many_wrong_keys", message, retry_after=ready_at - now)
        bucket.take(1, now)
        return RefusedError(401, "invalid_api_key", "this API key is unknown")
