"""What `batch run` was told, as the run file keeps it for `batch retry`. No key: only the names of variables."""

from typing import Literal

from msgspec import Struct
from msgspec.structs import asdict, replace

from stormbreak.http.endpoint import origin_of

_PLACE = frozenset({"provider", "base_url", "api_key_env"})
_FALLBACK = frozenset({"fallback_base_url", "fallback_api_key_env"})


class Flags(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The flags of a run, each with the name it has on the command line; None, none or False where it was not given.

    Paths are absolute: a later run may be started elsewhere.
    """

    provider: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    fallback_base_url: str | None = None
    fallback_api_key_env: str | None = None
    model: str | None = None
    policy: str | None = None
    concurrency: int | Literal["auto"] | None = None
    rpm: float | None = None
    tpm: float | None = None
    max_cost: float | None = None
    max_output_tokens: int | None = None
    prices: tuple[str, ...] = ()
    timeout: float | None = None
    idle_timeout: float | None = None
    deadline: float | None = None
    connect_grace: float | None = None
    ordered: bool = False

    @property
    def given(self) -> dict[str, object]:
        """Those that were given."""
        return {name: value for name, value in asdict(self).items() if value}

    def over(self, last: "Flags") -> "Flags":
        """These, and those of `last` where nothing was given.

        A key belongs to its address: who names another address leaves the variable of the old one behind.
        """
        kept = last.given.keys() - self.given.keys()
        if self.provider or self.base_url:
            kept -= _PLACE
        if self.fallback_base_url:
            kept -= _FALLBACK
        return replace(self, **{name: getattr(last, name) for name in kept})

    def without_place(self) -> "Flags":
        """Without what says where to send: something else does."""
        return replace(self, **dict.fromkeys(_PLACE))

    def at(self, base_url: str) -> "Flags":
        """With the address that they came to, if they name a key and none: it stays the key of that address."""
        named = self.api_key_env and not (self.provider or self.base_url)
        return replace(self, base_url=base_url) if named else self

    def clean(self) -> "Flags":
        """With base URLs as they are sent to, which leaves out whatever follows a `?`: that may be a key.

        Raises ConfigurationError for what is no base URL.
        """
        return replace(
            self, base_url=_clean(self.base_url), fallback_base_url=_clean(self.fallback_base_url)
        )


def typed(name: str) -> str:
    """A flag as it is typed."""
    return f"--{name.replace('_', '-')}"


def _clean(base_url: str | None) -> str | None:
    return None if base_url is None else origin_of(base_url, None).base_url
