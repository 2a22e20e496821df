"""The policy of the fleet. Package `fleet` talks to its store."""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from stormbreak.core.checks import check_types, require
from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import quoted

PASSWORD = "STORMBREAK_FLEET_PASSWORD"  # noqa: S105 - the name of a variable
"""The environment variable that holds the password of the store."""

SCHEMES = {
    "redis": "a server",
    "rediss": "a server, over TLS",
    "unix": "a server, over a Unix socket",
    "parent": "the Unix socket of a parent process",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPolicy:
    """Processes with the same store and `name` share limits, money and cooldowns. No `url`: nothing is shared.

    `url` is `redis://HOST:PORT/DB`, `rediss://` with TLS, or `unix:///PATH`. While the store does not answer, each
    process uses an equal "share" of each limit, or "half" of that (`fallback`). Calls that need more money are then
    rejected; with `on_store_loss="allow"` each process may spend up to the whole limit. Without `spend`, spend limits
    are not shared.
    """

    url: str | None = None
    name: str = "default"
    fallback: Literal["share", "half"] = "share"
    on_store_loss: Literal["reject", "allow"] = "reject"
    spend: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        usable = bool(self.name) and self.name.isprintable() and not set(self.name) & set("{}/")
        require(usable, "name must be printable, without {, } and /", ascii(self.name))
        if self.url is not None:
            _check(self.url)

    @property
    def acts(self) -> bool:
        """Whether anything is shared."""
        return self.url is not None


def _check(url: str) -> None:
    parts = _split(url)
    if parts is None or parts.scheme not in SCHEMES or not (parts.netloc or parts.path):
        secret = set(url) & set("@:?")  # it may hold a password
        raise ConfigurationError(
            "url must begin with redis://, rediss:// or unix:// and name a server, such as redis://localhost:6379"
            f"{'' if secret else f', got {quoted(url)}'}"
        )
    if parts.password or "password" in parts.query:
        raise ConfigurationError(
            f"url must not contain a password: put it into the environment variable {PASSWORD}"
        )


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts
