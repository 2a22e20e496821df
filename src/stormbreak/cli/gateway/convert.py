"""`stormbreak gateway convert`: make a settings file from the YAML of LiteLLM's proxy."""

import os
import re
from pathlib import Path

import click
import msgspec
import tomli_w

from stormbreak.cli.command import option, options, subcommand
from stormbreak.cli.gateway.init import show_key
from stormbreak.cli.options import FILE
from stormbreak.cli.output import say
from stormbreak.errors import ConfigurationError, errors_at
from stormbreak.escape import path_of, plain, reason, system_errors_at
from stormbreak.file_reader import read_bytes
from stormbreak.gateway.from_litellm import MASTER, convert

_PLACE = re.compile(r"line (\d+), column (\d+)")
_LONGEST = 500  # characters of a note


@subcommand("stormbreak gateway convert litellm.yaml --output gateway.toml")
@click.argument("yaml", type=FILE, metavar="YAML")
@options(
    "Options",
    option(
        "-o --output", FILE, "File to write, which must not exist.", show_default="standard output"
    ),
)
def command(yaml: Path, *, output: Path | None) -> None:
    """Make a settings file for the gateway from the YAML of LiteLLM's proxy.

    Settings that are not carried over are listed on standard error and at the top of the file. The master key becomes a
    client key, by its digest.
    """
    with errors_at(path_of(yaml)):
        converted = convert(_read(yaml), os.environ)
    notes = [plain(note, _LONGEST) for note in converted.notes]
    head = [f"# Converted from {plain(yaml.name)}.", *(f"# {note}" for note in notes), ""]
    text = "\n".join((*head, tomli_w.dumps(converted.table)))
    if output is None:
        say(text, end="")
    else:
        with system_errors_at(output), output.open("x", encoding="utf-8") as new:
            new.write(text)
    for note in notes:
        click.echo(note, err=True)
    if converted.key is not None:
        show_key(MASTER, converted.key)


def _read(path: Path) -> object:
    try:
        text = read_bytes(path, what="such a file")
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {reason(error)}") from None
    try:
        return msgspec.yaml.decode(text)
    except ImportError:
        raise ConfigurationError("YAML needs PyYAML: pip install 'stormbreak[yaml]'") from None
    except (ValueError, RecursionError) as error:  # its text may quote a key
        found = _PLACE.findall(str(error))
        at = " at line {}, column {}".format(*found[-1]) if found else ""
        raise ConfigurationError(f"is not valid YAML{at}") from None
