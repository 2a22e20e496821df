"""Command groups whose subcommands are imported only when they are called, so that `--help` stays quick."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group of subcommands, each the attribute `command` of a module.

    Args:
        built: module and help text by name.
    """

    def __init__(
        self,
        *args: Any,
        built: Mapping[str, tuple[str, str]],
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.built = built

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names in the order given."""
        return [*self.built]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a subcommand."""
        if cmd_name not in self.built:
            return None
        command = import_module(self.built[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a subcommand, or say which was perhaps meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            raise click.NoSuchCommand(
                error.command_name, possibilities=self.built, ctx=ctx
            ) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the help without importing anything."""
        built = [(name, said) for name, (_, said) in self.built.items()]
        with formatter.section("Commands"):
            formatter.write_dl(built)
