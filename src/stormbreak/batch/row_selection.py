"""Which rows a run sends: what a resumed run goes on with, or what `batch retry` takes up again."""

from collections.abc import Iterable
from dataclasses import dataclass

from stormbreak.types import TREATMENTS, Verdict

_UNSENT = frozenset({Verdict.REJECTED, Verdict.CANCELLED})

FINAL = frozenset(
    verdict.value
    for verdict, treatment in TREATMENTS.items()
    if not treatment.retry and verdict not in _UNSENT
)
"""Verdicts that another run would only meet again, unless somebody has mended something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Rows with neither an answer nor a failure, where `fresh`; of those that failed, the ones that `takes` takes."""

    fresh: bool
    only: frozenset[str] | None = None  # verdicts; None: whatever they are
    never: frozenset[str] = frozenset()

    def takes(self, verdict: str | None) -> bool:
        """Whether a row is sent again that failed with this verdict in an earlier run; None is one that nobody knows."""
        return (self.only is None or verdict in self.only) and verdict not in self.never


UNFINISHED_ROWS = Choice(fresh=True, never=FINAL)
"""All that is left, and all that failed for what passes."""


def failed_rows(only: Iterable[Verdict] = ()) -> Choice:
    """The rows that failed and no others, also those that failed for good; with `only`, by their verdicts."""
    return Choice(fresh=False, only=frozenset(verdict.value for verdict in only) or None)
