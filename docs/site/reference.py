# ruff: noqa: INP001 - read by Sphinx, no part of a package
"""The reference of commands, from click, and of names, from the docstrings, as Markdown."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from inspect import isclass, isroutine
from types import ModuleType

import click

from stormbreak.cli.main import root

_MODULE = re.compile(r"^\| `(stormbreak[\w.]*)` \|", re.MULTILINE)


class MarkdownFormatter(click.HelpFormatter):
    """Writes the help of a command as Markdown: options in tables, examples in blocks, nothing about `--help`."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:  # noqa: ARG002
        """Write a block."""
        self.write(_block(f"{prog} {args}"))

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Write a heading, and what is written meanwhile."""
        before = len(self.buffer)
        self.write(f"**{name}**\n\n" + "```sh\n" * (name == "Examples"))
        yield
        if name == "Examples":
            self.write("```\n\n")
        elif name == "Help":
            del self.buffer[before:]

    def write_text(self, text: str) -> None:
        """Write paragraphs; those that click does not fold are blocks."""
        for paragraph in text.split("\n\n"):
            kept = paragraph.removeprefix("\b\n")
            self.write(f"{_escaped(paragraph)}\n\n" if kept == paragraph else _block(kept))

    def write_dl(self, rows: Sequence[tuple[str, str]], *_: int, **__: int) -> None:
        """Write a table."""
        lines = [f"| `{name.strip()}` | {_escaped(text)} |" for name, text in rows]
        self.write("\n".join(["| | |", "|---|---|", *lines, "", ""]))


def _block(text: str) -> str:
    return f"```text\n{text}\n```\n\n"


def _escaped(text: str) -> str:
    return re.sub(r"([\\|<*_`\[])", r"\\\1", text)


def command_line() -> str:
    """Return the help of every command, each under a heading."""
    return "\n".join(_commands("stormbreak", root, None))


def _commands(name: str, command: click.Command, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(command, parent=parent, info_name=name, **command.context_settings)
    formatter = MarkdownFormatter()
    command.format_help(context, formatter)
    text = re.sub(r"^ +(?=stormbreak )", "", formatter.getvalue(), flags=re.MULTILINE)
    yield f"{'###' if parent and parent.parent else '##'} {context.command_path}\n\n{text}"
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found is not None
            yield from _commands(each, found, context)


def python(page: str) -> str:
    """Return directives for the public names of the modules in the table of `page`."""
    return "\n".join(_module(import_module(name)) for name in _MODULE.findall(page))


def _module(module: ModuleType) -> str:
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    lines = [f"## {module.__name__}", "", "```{eval-rst}", f".. automodule:: {module.__name__}", ""]
    for name in names:
        value = getattr(module, name)
        kind = "class" if isclass(value) else "function" if isroutine(value) else "data"
        if isclass(value) and issubclass(value, BaseException):
            kind = "exception"
        lines += [f".. auto{kind}:: {module.__name__}.{name}"]
        lines += (
            ["   :members:", "   :inherited-members: object, BaseException, int, str, tuple", ""]
            if isclass(value)
            else [""]
        )
    return "\n".join([*lines, "```", ""])
