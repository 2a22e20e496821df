"""Showing how a run goes: a live panel on a terminal, a plain line now and then elsewhere.

Nothing here prints what a file or a provider said, so nothing can reach the terminal from there.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stormbreak.batch.running.runner import Runner
from stormbreak.batch.view import Rate, View
from stormbreak.cli.numbers import format_cost, short, span

LINE_EVERY = 5.0  # seconds between plain lines
SHOW_READING_AFTER = 1.0  # seconds of silence while INPUT is read
WIDEST = 100  # columns of the panel
_GONE = (OSError, ValueError)  # a pipe without a reader, a terminal that was closed
_NAME = 8  # columns of a name
_KINDS = {"failed": "red", "circuit": "yellow"}  # what is worth a colour where it is not as usual


class Progress(Protocol):
    """Is told now and then while INPUT is read, then four times a second."""

    def reading(self, rows: int) -> None:
        """Show that so many rows have been read, once it has taken a while."""
        ...

    def tick(self, runner: Runner) -> None:
        """Look at the runner and show what matters."""
        ...


class Quiet:
    """Shows nothing."""

    def reading(self, rows: int) -> None:
        """Nothing."""

    def tick(self, runner: Runner) -> None:
        """Nothing."""


class Lines:
    """A line every few seconds, and one at the end; none any more once the stream is gone."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream: IO[str] | None = stream
        self._rate = Rate()
        self._last = time.monotonic()
        self._report_reading_at = self._last + SHOW_READING_AFTER
        self._shown: View | None = None
        self._reported_stopping = False

    def reading(self, rows: int) -> None:
        """Write a line if it is time."""
        now = time.monotonic()
        if now >= self._report_reading_at:
            self._report_reading_at = now + LINE_EVERY
            self._write(_reading(rows))

    def tick(self, runner: Runner) -> None:
        """Write a line if it is time."""
        view = View.of(runner)
        rate, eta = self._rate.look(view)
        if view.stopping and view.in_flight and not self._reported_stopping:
            self._reported_stopping = True
            self._write(_stopping(view))
        if view == self._shown or (view.left and time.monotonic() - self._last < LINE_EVERY):
            return
        self._shown = view
        self._last = time.monotonic()
        said = f"{view.done:,} done, {view.failed:,} failed, {view.left:,} left, {rate:,.1f} rows/s"
        said += f", {view.in_flight} in flight, {view.retries:,} retries, circuit {view.circuit}"
        said += f", {span(eta)} to go" if view.left and eta is not None else ""
        cost = format_cost(view.cost, view.limit_of_cost)
        said += f", cost {cost}" if cost else ""
        self._write(f"{said}; {view.slow}" if view.slow else said)

    def _write(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except _GONE:
            self._stream = None


class Panel:
    """A bar with three columns of figures below it, redrawn in place."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._rate = Rate()
        self._began = time.monotonic()

    def reading(self, rows: int) -> None:
        """Say so, once it has taken a while."""
        if time.monotonic() - self._began >= SHOW_READING_AFTER:
            self._live.update(Text(_reading(rows), style="dim"))

    def tick(self, runner: Runner) -> None:
        """Redraw."""
        view = View.of(runner)
        self._live.update(panel(view, *self._rate.look(view), self._live.console.width))


def panel(view: View, rate: float, eta: float | None, width: int) -> RenderableType:
    """Draw one."""
    whole = Table.grid(expand=True)
    whole.width = min(width - 2, WIDEST)  # or the ^C that a terminal echoes breaks the line
    whole.add_row(_bar(view, eta))
    whole.add_row(_figures(view, rate))
    cost = format_cost(view.cost, view.limit_of_cost)
    if cost:
        whole.add_row(_named("cost", cost))
    if view.slow:
        whole.add_row(_named("slow", view.slow))
    if view.stopping and view.in_flight:
        whole.add_row(Text(_stopping(view), style="yellow"))
    return whole


@contextmanager
def progress_on(stream: IO[str] | None, *, quiet: bool) -> Iterator[Progress]:
    """Choose how to show progress on `stream`, for as long as the context lasts. A stream that is gone ends nothing."""
    if quiet or stream is None or stream.closed:
        yield Quiet()
    elif stream.isatty():
        live = Live(console=Console(file=stream), refresh_per_second=4, transient=True)
        with suppress(*_GONE):
            live.start()
        try:
            yield Panel(live)
        finally:
            with suppress(*_GONE):
                live.stop()
    else:
        yield Lines(stream)


def _bar(view: View, eta: float | None) -> Table:
    over = view.total - view.left
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(ratio=1)
    row.add_column(justify="right", min_width=5)
    row.add_column(justify="right", min_width=15)
    left = f"{span(eta)} to go" if view.left and eta is not None else ""
    share = f"{int(100 * over / view.total)} %" if view.total else ""
    row.add_row(ProgressBar(total=view.total, completed=over), share, left)
    return row


def _figures(view: View, rate: float) -> Table:
    columns = (
        {"done": f"{view.done:,}", "failed": f"{view.failed:,}", "left": f"{view.left:,}"},
        {
            "rows/s": f"{rate:,.1f}",
            "in flight": f"{view.in_flight:,} of {view.limit:,}",
            "waiting": f"{view.waiting:,}",
        },
        {
            "retries": f"{view.retries:,}",
            "circuit": view.circuit,
            "tokens": f"{short(view.input_tokens)} in, {short(view.output_tokens)} out",
        },
    )
    table = Table.grid(padding=(0, 1), expand=True)
    for justify, width in (("right", 10), ("right", 12), ("left", 24)):
        table.add_column(style="dim", min_width=_NAME)
        table.add_column(justify="left" if justify == "left" else "right", min_width=width)
        table.add_column(ratio=1)
    for line in zip(*(column.items() for column in columns), strict=True):
        cells: list[RenderableType] = []
        for name, value in line:
            usual = value in {"0", "closed"} or name not in _KINDS
            cells += [name, Text(value, style="" if usual else _KINDS[name]), ""]
        table.add_row(*cells)
    return table


def _named(name: str, said: str) -> Text:
    """A line of its own, below the first column."""
    line = Text(name, style="dim", no_wrap=True, overflow="ellipsis")
    line.pad_right(_NAME + 1 - len(line))
    return line.append(said, style="not dim")


def _reading(rows: int) -> str:
    return f"reading INPUT: {rows:,} rows"


def _stopping(view: View) -> str:
    how = "again" if view.interrupted else "twice"
    return f"stopping: {view.in_flight:,} answers are still to come; Ctrl-C {how} stops at once"
