"""`stormbreak gateway init` and `key new`: write a first settings file, and make a client key."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from stormbreak.cli.command import subcommand
from stormbreak.cli.options import FILE
from stormbreak.cli.output import say
from stormbreak.errors import ConfigurationError
from stormbreak.escape import system_errors_at
from stormbreak.gateway.keys import digest_of, new_key
from stormbreak.hidden_keys import quoted
from stormbreak.llm.providers import PRESETS
from stormbreak.toml_reader import BARE

FIRST_KEY = "app"


@subcommand("stormbreak gateway init gateway.toml")
@click.argument("file", type=FILE, metavar="FILE")
def command(file: Path) -> None:
    """Write FILE: a target for each provider whose key is in the environment, and one client key.

    Without any, its only target is the mock provider of `stormbreak provider serve` at its default port.
    """
    key = new_key()
    text = "\n".join((*first_lines(os.environ), lines_of(FIRST_KEY, key), ""))
    with system_errors_at(file), file.open("x", encoding="utf-8") as new:
        new.write(text)
    show_key(FIRST_KEY, key)
    say(f"wrote {file}; start with: stormbreak gateway {file}")


def first_lines(environ: Mapping[str, str]) -> Iterator[str]:
    found = [each for each in PRESETS.values() if each.key_env and environ.get(each.key_env)]
    names = [each.name for each in found] or ["local"]
    for name in names:
        url = "" if PRESETS[name].key_env else f"  # {PRESETS[name].base_url}"
        yield f'[targets.{name}]\nprovider = "{name}"{url}\n'
    yield '[gateway]\nledger = "spent.db"  # usage and cost; see: stormbreak cost report spent.db\n'
    yield "[gateway.models]  # the name that a client asks for, and its target; * matches any ending"
    if "anthropic" in names[1:]:
        yield '"claude-*" = "anthropic"'
    yield f'"*" = "{names[0]}"'


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
    """Print a key on standard error, so that a redirect of the lines does not write it to a file."""
    click.echo(f"The key of {name}, which is not shown again: {key}", err=True)


def lines_of(name: str, key: str) -> str:
    return f'\n[keys.{name}]\nsha256 = "{digest_of(key.encode())}"'
