"""Command lines in help texts and documents: all commands, and parsing without running."""

import shlex
from itertools import takewhile

import click

from stormbreak.cli.main import root


def walk(command=root, path=("stormbreak",)):
    """Every group and command, by its words on the command line."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from walk(command.get_command(context, name), (*path, name))


COMMANDS = dict(walk())


def words_of(line):
    """The words of a command line, up to a comment, a pipe or a similar operator."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return [word for word in takewhile(lambda word: word[0] not in "|>&;", lexer) if word != "..."]


def parse(line):
    """Parse a command line without running it; return the words of the command and the click context."""
    words = words_of(line)
    path = max((path for path in COMMANDS if (*words[: len(path)],) == path), key=len)
    return path, COMMANDS[path].make_context(path[-1], words[len(path) :])
