"""The verdict table of a policy: which verdicts the breaker counts."""

from collections.abc import Collection, Iterable, Mapping

from stormbreak.core.checks import require
from stormbreak.types import TREATMENTS, Tally, Treatment, Verdict

_OUR_OWN = (Verdict.REJECTED, Verdict.CANCELLED)

COUNTABLE = tuple(verdict for verdict in Verdict if verdict not in (Verdict.OK, *_OUR_OWN))
"""Verdicts that a policy can count as failures or ignore: no success, and none that we caused."""


def check_verdict_lists(failures: Collection[Verdict], ignored: Collection[Verdict]) -> None:
    """Check the `failures` and `ignored` of a policy.

    Raises:
        ConfigurationError: a verdict cannot count, or is in both.
    """
    for name, verdicts in ("failures", failures), ("ignored", ignored):
        odd = [str(verdict) for verdict in verdicts if verdict not in COUNTABLE]
        require(not odd, f"{name} must name only verdicts that can count", ", ".join(odd))
    both = [str(verdict) for verdict in ignored if verdict in failures]
    require(not both, "ignored must name none of failures", ", ".join(both))


def tallied(failures: Iterable[Verdict], ignored: Iterable[Verdict]) -> Mapping[Verdict, Treatment]:
    """Return the verdict table with `failures` counted as failures and `ignored` not counted."""
    table = dict(TREATMENTS)
    for tally, verdicts in (Tally.FAILURE, failures), (Tally.NOTHING, ignored):
        for verdict in verdicts:
            table[verdict] = table[verdict]._replace(tally=tally)
    return table
