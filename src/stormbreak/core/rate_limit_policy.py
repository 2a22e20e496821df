"""Requests and tokens per minute: what is configured."""

from dataclasses import dataclass

from stormbreak.core.checks import check_types, require


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitPolicy:
    """At most `rpm` requests and `tpm` tokens per minute, per process and target. None: without a limit.

    After a pause, `burst_seconds` seconds of them may leave at once (at least one request). With `learn_from_headers`, what
    the headers of answers say of such limits is obeyed, too.
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
        """Whether there is anything to do."""
        return self.learn_from_headers or self.rpm is not None or self.tpm is not None
