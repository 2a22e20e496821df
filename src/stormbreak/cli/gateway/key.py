"""`stormbreak gateway key new`: make a client key."""

import click

from stormbreak.cli.command import subcommand
from stormbreak.cli.output import say
from stormbreak.errors import ConfigurationError
from stormbreak.gateway.keys import digest_of, new_key
from stormbreak.hidden_keys import quoted
from stormbreak.toml_reader import BARE


@subcommand("stormbreak gateway key new app >> gateway.toml")
@click.argument("name", metavar="NAME")
def new(name: str) -> None:
    """Make a client key: print it once on standard error, and the lines for the settings file.

    The lines hold only its SHA-256 digest: append them with `>> gateway.toml`.
    """
    if not BARE.fullmatch(name):
        raise ConfigurationError(
            f"the name of a key must be letters, digits, - and _, 40 at most, got {quoted(name)}"
        )
    key = new_key()
    show_key(name, key)
    say(lines_of(name, key))


def show_key(name: str, key: str) -> None:
    """Print a key on standard error, where no redirect of the lines takes it into a file."""
    click.echo(f"The key of {name}, which is not shown again: {key}", err=True)


def lines_of(name: str, key: str) -> str:
    return f'\n[keys.{name}]\nsha256 = "{digest_of(key.encode())}"'
