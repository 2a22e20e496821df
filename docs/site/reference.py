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
        names = [name.strip().replace("|", "\\|") for name, _ in rows]
        lines = [
            f"| `{name}` | {_escaped(text)} |" for name, (_, text) in zip(names, rows, strict=True)
        ]
        self.write("\n".join(["| | |", "|---|---|", *lines, "", ""]))


def _block(text: str) -> str:
    return f"```text\n{text}\n```\n\n"


def _escaped(text: str) -> str:
    marked = re.sub(r"([\\|<*_`\[])", r"\\\1", text)
    return re.sub(r"(?<![\w-])--[a-z][a-z-]*", r"`\g<0>`", marked)


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
    """Return directives for the public names of the modules in the table of `page`, for each value once."""
    seen: set[int] = set()
    return "\n".join(_module(import_module(name), seen) for name in _MODULE.findall(page))


def _module(module: ModuleType, seen: set[int]) -> str:
    lines = [f"## {module.__name__}", "", "```{eval-rst}", f".. automodule:: {module.__name__}", ""]
    for name in getattr(module, "__all__", None) or _defined(module):
        value = getattr(module, name)
        if id(value) not in seen:
            seen.add(id(value))
            lines += _directive(f"{module.__name__}.{name}", value)
    return "\n".join([*lines, "```", ""])


def _defined(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def _directive(name: str, value: object) -> list[str]:
    if not isclass(value):
        return [f".. auto{'function' if isroutine(value) else 'data'}:: {name}", ""]
    kind = "exception" if issubclass(value, BaseException) else "class"
    inherited = "   :inherited-members: object, BaseException, int, str, tuple"
    return [f".. auto{kind}:: {name}", "   :members:", inherited, ""]
