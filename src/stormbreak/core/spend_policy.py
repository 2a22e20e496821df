"""The policy of the spend limit. Package `cost` supplies the gate (`cost.spend_gate`)."""

from dataclasses import dataclass

from stormbreak.core.checks import check_types, require_at_least, require_positive

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
        require_positive(self, "max_usd", "period")
        require_at_least(self, 1, "max_output_tokens")

    @property
    def acts(self) -> bool:
        """Whether there is a limit."""
        return self.max_usd is not None
