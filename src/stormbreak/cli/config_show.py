"""`stormbreak config show`: what a policy or a file of settings comes to."""

import click

from stormbreak.cli.in_words import words_for
from stormbreak.cli.say import say
from stormbreak.config import describe_settings, resolve_settings


@click.command("show")
@click.argument("policy", metavar="FILE|PRESET")
@click.option("--profile", metavar="NAME", help="With this profile of the file laid over it.")
def command(policy: str, profile: str | None) -> None:
    """Say what a policy does, and what each target is, and print every value, as the TOML file that would give it."""
    settings = resolve_settings(policy, profile=profile)
    comment = "\n".join(f"# {line}".rstrip() for line in words_for(settings))
    say(f"{comment}\n\n{describe_settings(settings)}", end="")
