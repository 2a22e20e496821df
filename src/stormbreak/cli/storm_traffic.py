"""The scenario of `storm run`, with the calls that the user brings."""

from pathlib import Path

import click

from stormbreak.provider.loader import load
from stormbreak.provider.scenario import Scenario
from stormbreak.storm.own import read_arrivals, with_arrivals, with_batch

_MODEL = "storm-1"  # of rows that name none


def storm_of(
    scenario: str, *, arrivals: str | None, column: str | None, rows: str | None
) -> Scenario:
    """Load a scenario, and put the calls of a log or the rows of a batch into it."""
    if arrivals is not None and rows is not None:
        raise click.UsageError("--arrivals and --rows: give one of them, not both")
    if column is not None and arrivals is None:
        raise click.UsageError("--arrivals-field: give --arrivals, too")
    storm = load(scenario)
    if arrivals is not None:
        return with_arrivals(storm, read_arrivals(arrivals, column=column))
    return storm if rows is None else with_batch(storm, _tokens(rows))


def _tokens(path: str) -> list[int]:
    """What each row will use, as `batch run` estimates it."""
    # Only who brings a batch pays for what it imports.
    from stormbreak.batch.rows import Rows  # noqa: PLC0415
    from stormbreak.http.asking import Asking  # noqa: PLC0415

    with Rows.read(Path(path), model=_MODEL) as rows:
        found = map(rows.row_at, range(len(rows)))
        return [Asking(row.endpoint, row.body).tokens() for row in found]
