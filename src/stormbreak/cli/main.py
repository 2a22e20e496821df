"""The `stormbreak` command: finds the subcommand, and turns every error into one clear line.

Subcommands are imported only when they are called, so that `stormbreak --help` stays quick.
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

import click

from stormbreak.batch.plain import plain
from stormbreak.errors import ConfigurationError

# Each command lives in `stormbreak.cli.<module>` under the attribute `command`.
_COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "demo": ("stormbreak.cli.demo", "Watch 500 prompts survive a provider storm."),
        "batch": ("stormbreak.cli.batch", "Push a file of prompts through an API; lose nothing."),
        "config": ("stormbreak.cli.config", "Check a policy file; show what a policy comes to."),
        "storm": ("stormbreak.cli.storm", "What the next storm will do to a policy, simulated."),
        "provider": ("stormbreak.cli.provider", "An embedded provider that plays storms."),
    }
)


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(_COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in sorted(_COMMANDS)])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stormbreak")
def root() -> None:
    """Keep applications on LLM APIs working through rate limits, outages and traffic peaks."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code (2 for bad usage or configuration)."""
    try:
        result = root.main(args=argv, prog_name="stormbreak", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.Abort:
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except ConfigurationError as error:
        return _complain(str(error), 2)
    return result if isinstance(result, int) else 0


def _complain(message: str, code: int) -> int:
    line = plain(" ".join(message.split()), limit=10_000)
    print(f"stormbreak: {line}", file=sys.stderr)  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main())
