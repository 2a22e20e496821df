"""The one check that every policy value makes of itself."""

from stormbreak.errors import ConfigurationError


def require(holds: bool, rule: str, value: object) -> None:  # noqa: FBT001
    """Raise a ConfigurationError "<rule>, got <value>" unless the rule holds (NaN never does)."""
    if not holds:
        raise ConfigurationError(f"{rule}, got {value}")
