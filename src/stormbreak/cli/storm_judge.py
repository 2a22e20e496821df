"""What becomes of a claim about a storm, or a survey: an exit code."""

from stormbreak.cli.say import warn
from stormbreak.storm.claims import Claim, values


def judge(claim: Claim, text: str, measures: object) -> int:
    """Exit code 1, and why, unless the claim holds."""
    if claim.holds(measures):
        return 0
    said = values(claim, measures)
    warn(f"--assert does not hold: {text}; {said}")
    return 1
