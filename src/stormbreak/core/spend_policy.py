"""The spend limit: what is configured. Package `cost` supplies the gate that keeps it (`cost.spend_gate`)."""

from dataclasses import dataclass

from stormbreak.core.checks import check_types, require

COST = "cost"
"""The policy that rejects a call for what it alone may cost: more than the whole limit, or an unknown amount."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendPolicy:
    """At most `usd` US dollars are spent in every `per` seconds (None: ever), per process. None: without a limit.

    It holds for all targets that have the same limit, together. Before an attempt leaves, the most that it can cost is
    reserved. So its answer needs a bound: a request that names none is bounded to `longest_answer`; None: it is rejected.
    """

    usd: float | None = None
    per: float | None = None
    longest_answer: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        usd, per, answer = self.usd, self.per, self.longest_answer
        require(usd is None or usd > 0, "usd must be positive", usd)
        require(per is None or per > 0, "per must be positive", per)
        require(answer is None or answer >= 1, "longest_answer must be at least 1", answer)

    @property
    def acts(self) -> bool:
        """Whether there is a limit."""
        return self.usd is not None
