"""Commands whose help has option headings and examples; groups that import a command when it is called."""

import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
Rows = list[tuple[str, str]]

if TYPE_CHECKING:
    ParamType = click.ParamType
else:

    class ParamType(click.ParamType):
        """A type of options and arguments. Before version 8.4, click's own type is not generic."""

        def __class_getitem__(cls, _: Any) -> type:
            return cls


class Value(ParamType[T], Generic[T]):
    """A type of options and arguments: `parse` converts a text, or raises ValueError that says what it must be."""

    def parse(self, text: str) -> T:
        raise NotImplementedError

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """Parse a text; a default may be a value."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        try:
            return self.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_COLUMN = 30  # maximum characters of the first column


class Option(click.Option):
    """An option that appears under `heading` in the help."""

    heading = "Options"

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Write a default that is given as text without parentheses."""
        record = super().get_help_record(ctx)
        if record is None or not isinstance(self.show_default, str):
            return record
        return record[0], record[1].replace(f"({self.show_default})", self.show_default)


def option(names: str, value: str | ParamType[Any], text: str, **settings: Any) -> Callable[[F], F]:
    """Add an option to a command: `option("-m --model", "NAME", "Model to use.")`.

    `value` is its type, or the name of a string in the help; `settings` are those of `click.option`.
    """
    if isinstance(value, str):
        settings["metavar"] = value
    else:
        settings["type"] = value
    return click.option(*names.split(), cls=Option, help=text, **settings)


def flag(names: str, text: str) -> Callable[[F], F]:
    return click.option(*names.split(), cls=Option, is_flag=True, help=text)


def options(heading: str, *decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Add several options to a command, under a heading of its help."""

    def add(function: Any) -> Any:
        for decorate in reversed(decorators):
            function = decorate(function)
            function.__click_params__[-1].heading = heading
        return function

    return add


class Command(click.Command):
    """A command whose help ends with `examples`, one command line each."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.examples = examples

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn on garbage collection, which `stormbreak.__main__` turns off."""
        if not (gc.isenabled() or isinstance(self, click.Group)):
            gc.freeze()  # imported objects stay: do not scan them, not even at the exit
            gc.enable()
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings; `--help` comes last."""
        sections: dict[str, Rows] = {}
        for param in self.get_params(ctx):
            record = None if isinstance(param, click.Argument) else param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(param, "heading", "Help"), []).append(record)
        _write(formatter, sections)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as typed, without wrapping lines."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"  {line}\n")


def subcommand(*examples: str, **settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command; `settings` are those of `click.command`."""
    return click.command(cls=Command, examples=examples, **settings)


class Group(Command, click.Group):
    """A group of subcommands that are imported when they are called, so that `--help` stays fast.

    Args:
        lazy: the subcommands by heading: for each name, `module` or `module:attribute`, and the help text. The default
            attribute is `command`.
    """

    def __init__(
        self, name: str, *, lazy: Mapping[str, Mapping[str, tuple[str, str]]], **settings: Any
    ) -> None:
        super().__init__(name, **settings)
        self.sections = lazy
        self.lazy = {name: it for section in lazy.values() for name, it in section.items()}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without arguments, print the help and exit with 2: versions of click differ in this."""
        if not args and not ctx.resilient_parsing:
            with suppress(OSError):
                click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names in the order of the help."""
        return [*self.lazy]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        found = getattr(import_module(module), attribute or "command")
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a subcommand; for an unknown name, suggest the nearest one."""
        name = args[0]
        if name not in self.lazy and not name.startswith("-"):
            near = " or ".join(map(repr, get_close_matches(name, self.lazy)))
            hint = f" Did you mean {near}?" if near else ""
            raise click.UsageError(f"No such command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the subcommands, without importing them, and then the options."""
        _write(formatter, self._rows())
        super().format_options(ctx, formatter)

    def _rows(self) -> dict[str, Rows]:
        return {
            heading: [(name, text) for name, (_, text) in section.items()]
            for heading, section in self.sections.items()
        }


class DefaultGroup(Group):
    """A group with a `default` command, for arguments without a subcommand; the help has its options.

    Args:
        default: the module of that command; it is imported when it is called, and for the help.
    """

    def __init__(self, name: str, *, default: str, **settings: Any) -> None:
        super().__init__(
            name,
            context_settings={"ignore_unknown_options": True},
            subcommand_metavar="FILE [OPTIONS] | COMMAND [ARGS]...",
            options_metavar=None,
            **settings,
        )
        self.default = default

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a subcommand; any other word is an argument of the default."""
        if args[0] in self.lazy:
            return super().resolve_command(ctx, args)
        return ctx.info_name, self._default(), args

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the subcommands, and the options of the default."""
        _write(formatter, self._rows())
        Command.format_options(self._default(), ctx, formatter)

    def _default(self) -> Command:
        found = import_module(self.default).command
        assert isinstance(found, Command)
        return found


def _write(formatter: click.HelpFormatter, sections: Mapping[str, Rows]) -> None:
    """Write sections of two columns, aligned over all of them."""
    names = [len(name) for rows in sections.values() for name, _ in rows]
    width = max((length for length in names if length <= _COLUMN), default=0)
    for heading, rows in sections.items():
        with formatter.section(heading):
            formatter.write_dl([(name.ljust(width), text) for name, text in rows], width)
