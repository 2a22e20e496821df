"""What becomes of a claim about a storm, or a survey: an exit code."""

import click

from stormbreak.storm.claims import Claim, values


def judge(claim: Claim, text: str, measures: object) -> int:
    """Exit code 1, and why, unless the claim holds."""
    if claim.holds(measures):
        return 0
    said = values(claim, measures)
    click.echo(f"stormbreak: --assert does not hold: {text}; {said}", err=True)
    return 1
