"""The `stormbreak` command: finds the subcommand, and turns every error into one clear line."""

from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType

import click

from stormbreak.cli.lazy_group import LazyGroup
from stormbreak.cli.output import drop_stderr, open_closed_streams, unwritable, warn
from stormbreak.errors import ConfigurationError
from stormbreak.escape import plain
from stormbreak.key_patterns import hidden

_MAP = """\b
In Python:
  from stormbreak import AsyncClient, Client, resilient, scope
  from stormbreak.httpx2 import AsyncTransport, Transport, wrap

Exit codes: 0 all done; 1 some rows failed, or an --assert did not hold; 2 bad usage or configuration; 130
interrupted, and what was done is kept.
"""
_COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "demo": ("stormbreak.cli.demo", "Watch 500 prompts survive a provider storm."),
        "batch": ("stormbreak.cli.batch", "Push a file of prompts through an API; lose nothing."),
        "top": ("stormbreak.cli.top", "Watch a batch or an application while it runs."),
        "storm": ("stormbreak.cli.storm", "What the next peak will do to your policy, simulated."),
        "cost": ("stormbreak.cli.cost", "What providers cost, and what switching saves."),
        "provider": ("stormbreak.cli.provider", "An embedded provider that plays storms."),
        "telemetry": ("stormbreak.cli.telemetry", "Print the dashboard for Grafana."),
        "doctor": ("stormbreak.cli.doctor", "What is wrong with the SDKs installed here."),
        "config": ("stormbreak.cli.config", "Check a policy file; show what a policy comes to."),
    }
)


@click.group(
    cls=LazyGroup,
    built=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_MAP,
)
@click.version_option(package_name="stormbreak")
def root() -> None:
    """Keep applications on LLM APIs working through rate limits, outages and traffic peaks."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code (2 for bad usage or configuration)."""
    open_closed_streams()
    try:
        return _run(argv)
    finally:
        drop_stderr()


def _run(argv: list[str] | None) -> int:
    try:
        result = root.main(args=argv, prog_name="stormbreak", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.Abort:
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        with suppress(OSError):
            error.show()
        return error.exit_code
    except (click.ClickException, ConfigurationError) as error:
        return _complain(error)
    except OSError as error:  # help and version are written by click
        if error.filename is not None:
            raise
        return _complain(unwritable(error))
    return result if isinstance(result, int) else 0


def _complain(error: click.ClickException | ConfigurationError) -> int:
    """Print one line, and return the exit code."""
    said, code = str(error), 2
    if isinstance(error, click.ClickException):
        said, code = error.format_message().rstrip("."), error.exit_code
    if isinstance(error, click.UsageError) and error.ctx is not None:
        said += f" (see {error.ctx.command_path} --help)"
    # What click says repeats whatever was given to it.
    said = hidden(" ".join(said.split()), tokens=isinstance(error, click.ClickException))
    line = plain(said, limit=10_000)
    warn(line)
    return code
