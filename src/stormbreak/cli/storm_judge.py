"""What becomes of a claim about a storm: an exit code."""

import click

from stormbreak.storm.claims import Claim, values
from stormbreak.storm.measures import Measures


def judge(claim: Claim, text: str, measures: Measures) -> int:
    """Exit code 1, and why, unless the claim holds."""
    if claim.holds(measures):
        return 0
    said = values(claim, measures)
    click.echo(f"stormbreak: --assert does not hold: {text}; {said}", err=True)
    return 1
