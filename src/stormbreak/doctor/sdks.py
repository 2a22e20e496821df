"""Known SDKs and frameworks: where they define their defaults, where our transport goes, and their traps (sdks.toml)."""

import tomllib
from importlib.resources import files

import msgspec

NONE = "none"
NEVER_SENDS = "-"


class Default(msgspec.Struct, frozen=True, kw_only=True):
    """A default in the checked version, a number or text, and where the package defines it.

    `name` is a constant, `Class.field` or `function.argument`; a None there means `none`. With `includes_first` the number
    counts all attempts, not retries only.
    """

    value: float | str
    file: str = ""
    name: str = ""
    none: str = NONE
    includes_first: bool = False


class Sdk(msgspec.Struct, frozen=True, kw_only=True):
    """A package. `over` is the SDK that it uses; None if it has an HTTP library of its own, or none."""

    name: str
    checked: str
    retries: Default
    timeout: Default
    transport: str
    over: str | None = None
    traps: tuple[str, ...] = ()


class _File(msgspec.Struct):
    sdk: tuple[Sdk, ...]


def _load() -> tuple[Sdk, ...]:
    text = (files("stormbreak.doctor") / "sdks.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), _File).sdk


SDKS = _load()  # in the order in which they are listed
