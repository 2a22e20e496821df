"""`stormbreak config check`: is a file of settings right."""

import click

from stormbreak.cli.output import say
from stormbreak.config import Settings, load_settings, profiles_in
from stormbreak.errors import ConfigurationError
from stormbreak.http.endpoint import origin_of


@click.command("check")
@click.argument("file")
@click.option("--profile", metavar="NAME", help="Check with this profile only.")
def command(file: str, profile: str | None) -> None:
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
