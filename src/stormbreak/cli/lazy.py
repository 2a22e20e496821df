"""Command groups whose subcommands are imported only when they are called, so that `--help` stays quick."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from stormbreak.errors import ConfigurationError


class LazyGroup(click.Group):
    """A group of subcommands, each the attribute `command` of a module.

    Args:
        built: module and help text by name.
        planned: help text of those that are not built yet; they exit with code 2 and say so.
    """

    def __init__(
        self,
        *args: Any,
        built: Mapping[str, tuple[str, str]],
        planned: Mapping[str, str],
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.built = built
        self.planned = planned

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names in the order given, the planned ones last."""
        return [*self.built, *self.planned]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand."""
        if cmd_name in self.planned:
            return _refusing(f"{ctx.command_path} {cmd_name}", self.planned[cmd_name])
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
        planned = [(name, f"{said} (not built yet)") for name, said in self.planned.items()]
        with formatter.section("Commands"):
            formatter.write_dl([*built, *planned])


def _refusing(name: str, said: str) -> click.Command:
    @click.command(
        name,
        help=said,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
    )
    @click.argument("anything", nargs=-1, type=click.UNPROCESSED)
    def refuse(anything: tuple[str, ...]) -> None:  # noqa: ARG001
        raise ConfigurationError(f"{name} is not built yet")

    return refuse
