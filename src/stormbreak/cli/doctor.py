"""`stormbreak doctor`: check the installed SDKs for common mistakes."""

import click
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from stormbreak.cli.command import flag, options, subcommand
from stormbreak.cli.options import JSON
from stormbreak.cli.output import draw, json_text, say
from stormbreak.doctor.environment import check_environment
from stormbreak.doctor.findings import Finding, Severity, sorted_by_severity
from stormbreak.doctor.installed_sdks import (
    NEVER_SENDS,
    Installed,
    Setting,
    check_installed,
    installed,
)
from stormbreak.errors import ConfigurationError


@subcommand("stormbreak doctor", "stormbreak doctor --strict --json")
@click.argument("anything", nargs=-1, type=click.UNPROCESSED, metavar="")
@options("Options", JSON, flag("--strict", "Exit with code 1 also for a risk."))
def command(anything: tuple[str, ...], *, as_json: bool, strict: bool) -> int:
    """Check the installed SDKs and the environment; exit with code 1 if something is wrong.

    It imports no SDK and sends nothing. To check a client object, call `stormbreak.doctor.examine(client)` in Python.
    """
    if anything:
        raise ConfigurationError(
            "doctor takes no argument; to check a client, call stormbreak.doctor.examine(client) in Python"
        )
    here = installed()
    findings = sorted_by_severity((*check_environment(), *check_installed(here)))
    if as_json:
        say(json_text({"installed": here, "findings": findings}))
    else:
        _show(here, findings)
    bad = {Severity.WRONG, Severity.RISK} if strict else {Severity.WRONG}
    return int(any(finding.severity in bad for finding in findings))


def _show(here: list[Installed], findings: list[Finding]) -> None:
    if here:
        table = Table("SDK", "version", "over", "retries", "timeout", box=SIMPLE, pad_edge=False)
        for one in here:
            timeout = _setting(one.timeout, " s")
            row = (one.name, one.version, one.library, _setting(one.retries), timeout)
            table.add_row(*map(escape, row))
        draw(table)
        say("* known from the checked version; everything else is read from the installed one\n")
        for one in here:
            say(f"transport of {one.name}: {one.transport}")
        say("")
    else:
        say("No SDK that stormbreak knows is installed.\n")
    for finding in findings:
        say(f"{finding}\n")
    counts = ", ".join(
        f"{sum(finding.severity is each for finding in findings)} {each}" for each in Severity
    )
    say(f"{counts}. To check your client: stormbreak.doctor.examine(client), see docs/doctor.md.")


def _setting(setting: Setting, unit: str = "") -> str:
    text = setting.value if isinstance(setting.value, str) else f"{setting.value:g}{unit}"
    return text if setting.read or text == NEVER_SENDS else f"{text} *"
