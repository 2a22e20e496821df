"""`stormbreak config`: is a file of settings right, and what does it come to."""

import click

from stormbreak.cli.in_words import words_for
from stormbreak.cli.say import say
from stormbreak.config import (
    Settings,
    describe_settings,
    load_settings,
    profiles_in,
    resolve_settings,
)
from stormbreak.errors import ConfigurationError
from stormbreak.http.origin import origin_of


@click.group()
def command() -> None:
    """Check a policy or settings file, or show what it comes to."""


@command.command()
@click.argument("file")
@click.option("--profile", metavar="NAME", help="Check with this profile only.")
def check(file: str, profile: str | None) -> None:
    """Say whether FILE is right, with each of its profiles; exit 2 with the first mistake if it is not."""
    for each in (profile,) if profile else (None, *profiles_in(file)):
        _check_addresses(file, load_settings(file, profile=each))
    say(f"{file}: ok")


def _check_addresses(file: str, settings: Settings) -> None:
    """What `config` cannot know, and a client would refuse. Keys are not looked for: they may be set elsewhere."""
    for name, target in settings.targets.items():
        if target.base_url is not None:
            try:
                origin_of(target.base_url, None)
            except ConfigurationError as error:
                raise ConfigurationError(f"{file}: targets.{name}: {error}") from None


@command.command()
@click.argument("policy", metavar="FILE|PRESET")
@click.option("--profile", metavar="NAME", help="With this profile of the file laid over it.")
def show(policy: str, profile: str | None) -> None:
    """Say what a policy does, and what each target is, and print every value, as the TOML file that would give it."""
    settings = resolve_settings(policy, profile=profile)
    comment = "\n".join(f"# {line}".rstrip() for line in words_for(settings))
    say(f"{comment}\n\n{describe_settings(settings)}", end="")
