"""Showing how a run goes: a live panel on a terminal, a plain line now and then elsewhere.

Nothing here prints what a file or a provider said, so nothing can reach the terminal from there.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from stormbreak.batch.runner import Runner

LINE_EVERY = 5.0  # seconds between plain lines


class Progress(Protocol):
    """Is told four times a second."""

    def tick(self, runner: Runner) -> None:
        """Look at the runner and show what matters."""
        ...


class Quiet:
    """Shows nothing."""

    def tick(self, runner: Runner) -> None:
        """Nothing."""


class _Rate:
    """Rows per second since the run began, and the time they will still take."""

    def __init__(self) -> None:
        self._began: tuple[float, int] | None = None

    def look(self, done: int, left: int) -> tuple[float, float | None]:
        now = time.monotonic()
        if self._began is None:
            self._began = (now, done)
        then, before = self._began
        rate = (done - before) / (now - then) if now > then else 0.0
        return rate, left / rate if rate > 0 else None


class Lines:
    """A line every few seconds, and one at the end."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._rate = _Rate()
        self._last = time.monotonic()
        self._said = ""

    def tick(self, runner: Runner) -> None:
        """Write a line if it is time."""
        rate, _ = self._rate.look(runner.journal.done, _left(runner))
        if time.monotonic() - self._last < LINE_EVERY and _left(runner):
            return
        self._last = time.monotonic()
        journal, counts = runner.journal, runner.counts
        said = (
            f"done {journal.done:,}  failed {journal.failed:,}  left {_left(runner):,}"
            f"  {rate:,.1f} rows/s  in flight {_in_flight(runner)}"
            f"  retries {counts.retries:,}  circuit {_circuits(runner)}"
        )
        if said != self._said:
            self._said = said
            self._stream.write(said + "\n")
            self._stream.flush()


class Panel:
    """A bar and a line of figures below it, redrawn in place."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._rate = _Rate()

    def tick(self, runner: Runner) -> None:
        """Redraw."""
        journal, counts, total = runner.journal, runner.counts, len(runner.rows)
        left = _left(runner)
        rate, eta = self._rate.look(journal.done, left)
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            ProgressBar(total=total, completed=total - left, width=40),
            f"[bold]{journal.done:,}[/] done",
            f"[red]{journal.failed:,}[/] failed" if journal.failed else "0 failed",
            f"{left:,} left",
            f"{rate:,.1f} rows/s",
            f"ETA {_span(eta)}",
        )
        figures = Table.grid(padding=(0, 2))
        figures.add_row(
            f"in flight {_in_flight(runner)}",
            f"retries {counts.retries:,}",
            f"come back later {runner.schedule.waiting:,}",
            f"circuit {_coloured(_circuits(runner))}",
            f"tokens {counts.input_tokens:,} in, {counts.output_tokens:,} out",
        )
        whole = Table.grid()
        whole.add_row(bar)
        whole.add_row(figures)
        self._live.update(whole)


@contextmanager
def progress_on(stream: IO[str], *, quiet: bool) -> Iterator[Progress]:
    """Choose how to show progress on `stream`, for as long as the context lasts."""
    if quiet:
        yield Quiet()
    elif stream.isatty():
        with Live(console=Console(file=stream), refresh_per_second=4) as live:
            yield Panel(live)
    else:
        yield Lines(stream)


def _left(runner: Runner) -> int:
    return len(runner.rows) - runner.journal.done - runner.journal.failed


def _in_flight(runner: Runner) -> str:
    targets = runner.client.snapshot()["targets"].values()
    return " + ".join(f"{each['in_flight']} of {each['limit']}" for each in targets) or "0"


def _circuits(runner: Runner) -> str:
    """Return the state of the worst circuit, or the pause that was asked for."""
    targets = runner.client.snapshot()["targets"].values()
    states = {each["circuit"] for each in targets}
    for state in ("isolated", "open", "half_open"):
        if state in states:
            return state.replace("_", "-")
    pause = max((each["cooldown"] for each in targets), default=0.0)
    return f"closed, pause {pause:.0f} s" if pause >= 1 else "closed"


def _coloured(circuit: str) -> str:
    return circuit if circuit == "closed" else f"[yellow]{circuit}[/]"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
