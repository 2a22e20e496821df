"""The policy of requests and tokens per minute."""

from dataclasses import dataclass

from stormbreak.core.checks import check_types, require


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitPolicy:
    """At most `rpm` requests and `tpm` tokens per minute, per process and target. None: no limit.

    After a pause, those of `burst_seconds` may leave at once (at least one request). With `learn_from_headers`,
    rate-limit headers are respected, too.
    """

    rpm: float | None = None
    tpm: float | None = None
    burst_seconds: float = 1.0
    learn_from_headers: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("rpm", "tpm"):
            limit = getattr(self, name)
            require(limit is None or limit > 0, f"{name} must be positive", limit)
        require(self.burst_seconds >= 0, "burst_seconds must not be negative", self.burst_seconds)

    @property
    def acts(self) -> bool:
        """Whether any limit applies."""
        return self.learn_from_headers or self.rpm is not None or self.tpm is not None
