"""The spend limit: what is configured. Package `cost` supplies the gate that keeps it (`cost.spend_gate`)."""

from dataclasses import dataclass

from stormbreak.core.checks import check_types, require

COST = "cost"
"""The policy that rejects a call for what it alone may cost: more than the whole limit, or an unknown amount."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendPolicy:
    """At most `max_usd` US dollars are spent in every `period` seconds (None: ever), per process. None: without a limit.

    It holds for all targets that have the same limit, together. Before an attempt leaves, the most that it can cost is
    reserved. So its answer needs a bound: a request that names none is bounded to `max_output_tokens`; None: it is rejected.
    """

    max_usd: float | None = None
    period: float | None = None
    max_output_tokens: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        usd, per, answer = self.max_usd, self.period, self.max_output_tokens
        require(usd is None or usd > 0, "max_usd must be positive", usd)
        require(per is None or per > 0, "period must be positive", per)
        require(answer is None or answer >= 1, "max_output_tokens must be at least 1", answer)

    @property
    def acts(self) -> bool:
        """Whether there is a limit."""
        return self.max_usd is not None
