"""The policy of the spend limit. Package `cost` supplies the gate (`cost.spend_gate`)."""

from dataclasses import dataclass

from stormbreak.core.checks import check_types, require

COST = "cost"
"""The policy name of a rejection because one call may exceed the whole limit, or its cost is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendPolicy:
    """At most `max_usd` US dollars in every `period` seconds (None: ever), per process. None: no limit.

    All targets with the same limit share it. Before an attempt leaves, its maximum cost is
    reserved. So its answer needs a bound: a request without one gets `max_output_tokens`; None: it is rejected.
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
