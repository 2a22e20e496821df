"""`stormbreak config`: is a policy file right, and what does it come to."""

import click

from stormbreak.cli.say import say
from stormbreak.config import account, delay_table, describe, load_policy, resolve_policy


@click.group()
def command() -> None:
    """Check a policy file, or show what a policy comes to."""


@command.command()
@click.argument("file")
def check(file: str) -> None:
    """Say whether FILE is a policy; exit 2 with the first mistake if it is not."""
    load_policy(file)
    say(f"{file}: ok")


@command.command()
@click.argument("policy", metavar="FILE|PRESET")
def show(policy: str) -> None:
    """Say what a policy does, and print every value of it, as the TOML file that would give it."""
    resolved = resolve_policy(policy)
    words = (*account(resolved), "", *delay_table(resolved.retry.backoff))
    comment = "\n".join(f"# {line}".rstrip() for line in words)
    say(f"{comment}\n\n{describe(resolved)}", end="")
