"""What becomes of a claim about a storm: an exit code."""

from stormbreak.cli.say import warn
from stormbreak.storm.claims import Claim, values
from stormbreak.storm.measures import Measures


def judge(claim: Claim, text: str, measures: Measures) -> int:
    """Exit code 1, and why, unless the claim holds."""
    if claim.holds(measures):
        return 0
    said = values(claim, measures)
    warn(f"--assert does not hold: {text}; {said}")
    return 1
