"""What a live storm shows while it lasts, and what its figures may suffer from."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from stormbreak.provider.scenario import Scenario
from stormbreak.storm.live import Played
from stormbreak.storm.live.busy import ENOUGH, WINDOW
from stormbreak.storm.live.playing import Moment
from stormbreak.storm.live.playing import Progress as Tell

_LATE = 0.1  # real seconds by which a call may be handed over late without a word
_FULL = 0.95  # of the machine


@contextmanager
def progress_of(scenario: Scenario, name: str) -> Iterator[Tell]:
    """A bar on standard error, where that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counted]}"))
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task(
            f"{escape(scenario.name)}, {escape(name)}",
            total=scenario.duration,
            counted="waiting for its first call",
        )

        def tell(moment: Moment) -> None:
            counted = (
                f"{moment.now:.0f} of {moment.until:.0f} s: {moment.calls:,} calls,"
                f" {moment.attempts:,} attempts, {moment.answers:,} answered"
            )
            bar.update(task, completed=min(moment.now, moment.until), counted=counted)

        yield tell


def warnings_of(played: Played) -> Iterator[str]:
    """FailureReasons to doubt the figures of a storm, a line each."""
    busiest = played.busiest
    if busiest.program is not None and busiest.program >= ENOUGH:
        yield (
            f"a copy used {busiest.program:.0%} of a core for {WINDOW:g} s: it may have been the bottleneck;"
            " more --copies, or a smaller --scale"
        )
    if busiest.provider is not None and busiest.provider >= ENOUGH:
        yield (
            f"the provider used {busiest.provider:.0%} of a core for {WINDOW:g} s: it may have been the"
            " bottleneck; a smaller --scale"
        )
    if busiest.machine is not None and busiest.machine >= _FULL:
        yield f"all cores were busy for {WINDOW:g} s: what waited for them counts, too"
    if played.latest >= _LATE:
        yield f"a call was handed over {played.latest:.1f} s late"
    if played.strangers:
        yield f"{played.strangers:,} requests held no prompt of the storm, and are in no measure but the attempts"
