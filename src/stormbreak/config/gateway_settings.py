"""The values of a gateway in a settings file: `[gateway]`, and a `[keys.NAME]` for each client key."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from stormbreak.core.checks import check_types, require, require_at_least, require_positive
from stormbreak.core.tenant import TenantLimits
from stormbreak.errors import ConfigurationError
from stormbreak.types import Priority

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_PORT = 65535


ANY = "*"  # at the end of a model name: matches all names that begin like it


def matches(name: str, model: str) -> bool:
    """Whether `name` is the model, or ends in `*` and begins like it."""
    return name == model or (name.endswith(ANY) and model.startswith(name[:-1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Where a gateway listens, and how it treats its clients. Times are seconds.

    `models` maps names that clients ask for to targets or pools; a name that ends in `*` matches all names that begin
    like it, and the longest match wins. When a client disconnects, its call is cancelled or read to its end
    (`on_disconnect`). While a stream has no output, a comment is sent every `waiting_comment` seconds, which commits to
    status 200. `grace` is the time for answers to finish after SIGTERM. The file `ledger` keeps the spending of keys
    over restarts.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    admin_host: str = "127.0.0.1"
    admin_port: int | None = 9464
    models: Mapping[str, str] = field(default_factory=dict)
    on_disconnect: Literal["cancel", "finish"] = "cancel"
    waiting_comment: float | None = None
    grace: float = 600.0
    access_log: bool = True
    max_connections: int = 10_000
    ledger: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("port", "admin_port"):
            port = getattr(self, name)
            fits = port is None or 0 <= port <= _MAX_PORT
            require(fits, f"{name} must be from 0 to {_MAX_PORT}", port)
        require_positive(self, "waiting_comment")
        require_at_least(self, 0, "grace")
        require_at_least(self, 1, "max_connections")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings(TenantLimits):
    """A client key, by its SHA-256 digest, and its permissions.

    `models` are the names that it may ask for (None: all), also with a `*` at the end. Its calls have its `priority`,
    `tenant` (None: the name of the key), `labels` and `deadline`.
    """

    sha256: str
    models: tuple[str, ...] | None = None
    priority: Priority | None = None
    tenant: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    deadline: float | None = None

    def __post_init__(self) -> None:
        TenantLimits.__post_init__(self)
        if not _DIGEST.fullmatch(self.sha256):  # not repeated: it may be the key
            raise ConfigurationError(
                "sha256 must be 64 hex digits in lower case, as `stormbreak gateway key new` prints them"
            )
        require_positive(self, "deadline")

    def allows(self, model: str) -> bool:
        return self.models is None or any(matches(name, model) for name in self.models)
