"""`stormbreak batch`: the group; each subcommand is imported only when it is called."""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

import click

# Each subcommand lives in `stormbreak.cli.<module>` under the attribute `command`.
_BUILT: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "run": ("stormbreak.cli.batch_run", "Answer every row of a file; resume where it stopped."),
        "status": ("stormbreak.cli.batch_status", "Show how far a run has come."),
    }
)
_PLANNED: Mapping[str, str] = MappingProxyType(
    {
        "estimate": "Say what a run will cost (not built yet).",
        "retry": "Try the failed rows again (not built yet).",
    }
)


class _Subcommands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [*_BUILT, *_PLANNED]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name in _PLANNED:
            return _planned(cmd_name)
        if cmd_name not in _BUILT:
            return None
        command = import_module(_BUILT[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            built = [(name, said) for name, (_, said) in _BUILT.items()]
            formatter.write_dl([*built, *_PLANNED.items()])


def _planned(name: str) -> click.Command:
    @click.command(name, help=_PLANNED[name], context_settings={"ignore_unknown_options": True})
    @click.argument("anything", nargs=-1, type=click.UNPROCESSED)
    def refuse(anything: tuple[str, ...]) -> None:  # noqa: ARG001
        raise click.UsageError(f"batch {name} is not built yet")

    return refuse


@click.group(cls=_Subcommands)
def command() -> None:
    """Push a file of prompts through an API; lose nothing."""
