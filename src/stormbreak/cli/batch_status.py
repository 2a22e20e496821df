"""`stormbreak batch status`: how far a run has come, for eyes or for scripts."""

from datetime import UTC, datetime
from pathlib import Path

import click

from stormbreak.batch.cost_words import format_cost
from stormbreak.batch.plain import path_of
from stormbreak.batch.status import Status, read_status
from stormbreak.cli.batch_told import retry_command
from stormbreak.cli.cost_options import priced
from stormbreak.cli.say import json_text, say
from stormbreak.cost.lookup import load_lookup


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@priced
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(output: Path, *, files: tuple[str, ...], as_json: bool) -> None:
    """Show how far the run that writes OUTPUT has come; changes nothing, also while it is at work."""
    status = read_status(output, load_lookup(files).price_of)
    if as_json:
        say(json_text(status))
        return
    say("\n".join(f"{name:<8} {said}" for name, said in _told(status) if said))


def _told(status: Status) -> list[tuple[str, str]]:
    begun = datetime.fromtimestamp(status.started_at, UTC).astimezone()
    share = f" ({status.done / status.total:.1%})" if status.total else ""
    return [
        ("input", path_of(status.input)),
        ("output", path_of(status.output)),
        (
            "run",
            ("active" if status.active else "not active") + f", begun {begun:%Y-%m-%d %H:%M:%S}",
        ),
        ("total", f"{status.total:,}"),
        ("done", f"{status.done:,}{share}"),
        ("failed", _counted(status)),
        ("left", f"{status.left:,}"),
        ("cost", format_cost(status.cost, None)),
        ("next", _next(status)),
    ]


def _next(status: Status) -> str:
    if status.active or not status.failed:
        return ""
    return retry_command(status.output)


def _counted(status: Status) -> str:
    verdicts = ", ".join(f"{verdict} {count:,}" for verdict, count in status.failed.items())
    total = sum(status.failed.values())
    return f"{total:,} ({verdicts})" if total else "0"
