"""The `stormbreak` command: finds the subcommand, and turns every error into one clear line."""

import click

from stormbreak import __version__
from stormbreak.cli.command import Group
from stormbreak.cli.output import drop_stderr, open_closed_streams, unwritable, warn
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, plain, reason
from stormbreak.hidden_keys import hidden

root = Group(
    "stormbreak",
    help="""Keep applications on LLM APIs working through rate limits, outages and traffic peaks.

    \b
    Start with:
      stormbreak demo
      stormbreak storm run incident --duration 300 --compare naive,article
      stormbreak batch run prompts.jsonl -o answers.jsonl --provider openai -m gpt-4.1
    """,
    lazy={
        "Send prompts": {
            "batch": (
                "stormbreak.cli.groups:batch",
                "Send a file of prompts; resume after a crash.",
            ),
            "top": ("stormbreak.cli.top", "Watch a running batch or application."),
        },
        "Serve a team": {
            "gateway": (
                "stormbreak.cli.groups:gateway",
                "Serve OpenAI's and Anthropic's APIs to other programs.",
            ),
        },
        "Test a policy": {
            "demo": ("stormbreak.cli.demo", "Watch 500 prompts survive an outage."),
            "storm": ("stormbreak.cli.groups:storm", "Simulate outages and peaks under a policy."),
            "provider": (
                "stormbreak.cli.groups:provider",
                "Run a local mock provider with faults.",
            ),
            "config": ("stormbreak.cli.groups:config", "Check a policy file; print a policy."),
        },
        "Count the cost": {
            "cost": ("stormbreak.cli.groups:cost", "Compare prices; report what a batch cost."),
        },
        "Set up": {
            "doctor": ("stormbreak.cli.doctor", "Check the installed SDKs for common mistakes."),
            "fleet": ("stormbreak.cli.groups:fleet", "Show limits that processes share."),
            "telemetry": ("stormbreak.cli.groups:telemetry", "Print the Grafana dashboard."),
        },
    },
    context_settings={
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "max_content_width": 100,
    },
    epilog="""\b
    In Python:
      from stormbreak import AsyncClient, Client, resilient, scope
      from stormbreak.httpx2 import AsyncTransport, Transport, wrap

    Exit codes: 0 success; 1 some rows failed, or an --assert did not hold; 2 bad usage or
    configuration; 130 interrupted, and the work done so far is kept.
    """,
)
click.version_option(__version__, "-V", "--version")(root)


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
    except (click.ClickException, ConfigurationError) as error:
        return _print_error(error)
    except OSError as error:
        if error.filename is None:  # click writes help and version
            return _print_error(unwritable(error))
        return _print_error(ConfigurationError(f"{path_of(error.filename)}: {reason(error)}"))
    return result if isinstance(result, int) else 0


def _print_error(error: click.ClickException | ConfigurationError) -> int:
    """Print one line without keys, and return the exit code."""
    message, code = str(error), 2
    if isinstance(error, click.ClickException):
        message, code = error.format_message().rstrip("."), error.exit_code
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message += f" (see {error.ctx.command_path} --help)"
    # click's messages repeat user input, which may contain a key.
    message = hidden(" ".join(message.split()), tokens=isinstance(error, click.ClickException))
    warn(plain(message, limit=10_000))
    return code
