"""What the verdicts tell a breaker, where a policy says otherwise than the verdict table."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from stormbreak.types import TREATMENTS, Tally, Treatment, Verdict


def tallied(
    failures: Iterable[Verdict], uncounted: Iterable[Verdict]
) -> Mapping[Verdict, Treatment]:
    """The verdict table, but `failures` count as such and `uncounted` not at all."""
    table = dict(TREATMENTS)
    for tally, verdicts in (Tally.FAILURE, failures), (Tally.NOTHING, uncounted):
        for verdict in verdicts:
            table[verdict] = table[verdict]._replace(tally=tally)
    return MappingProxyType(table)
