"""`stormbreak doctor`: the SDKs that are installed here, and what is wrong around them."""

import click
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from stormbreak.cli.output import draw, json_text, say
from stormbreak.doctor.environment import check_environment
from stormbreak.doctor.findings import Finding, Severity, sorted_by_severity
from stormbreak.doctor.installed_sdks import Installed, Setting, check_installed, installed
from stormbreak.doctor.sdks import NEVER_SENDS
from stormbreak.errors import ConfigurationError


@click.command()
@click.argument("anything", nargs=-1, type=click.UNPROCESSED, metavar="")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--strict", is_flag=True, help="Exit 1 where there is a risk, too.")
def command(anything: tuple[str, ...], *, as_json: bool, strict: bool) -> int:
    """Look at the SDKs installed here and at the environment; exit 1 if something is wrong.

    No SDK is imported, and nothing is sent. A client object of yours is looked at in Python:
    `stormbreak.doctor.examine(client)`.
    """
    if anything:
        raise ConfigurationError(
            "doctor imports no code of yours: call stormbreak.doctor.examine(client) in it"
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
            timeout = _told(one.timeout, " s")
            row = (one.name, one.version, one.library, _told(one.retries), timeout)
            table.add_row(*map(escape, row))
        draw(table)
        say("* known from the checked version; everything else is read from the installed one\n")
        for one in here:
            say(f"transport of {one.name}: {one.transport}")
        say("")
    else:
        say("No SDK that is known here is installed.\n")
    for finding in findings:
        say(f"{finding}\n")
    counts = ", ".join(
        f"{sum(finding.severity is each for finding in findings)} {each}" for each in Severity
    )
    say(f"{counts}. A client of yours: stormbreak.doctor.examine(client), see docs/doctor.md.")


def _told(setting: Setting, unit: str = "") -> str:
    said = setting.value if isinstance(setting.value, str) else f"{setting.value:g}{unit}"
    return said if setting.read or said == NEVER_SENDS else f"{said} *"
