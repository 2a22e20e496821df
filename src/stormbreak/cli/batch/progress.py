"""Show the progress of a run: a live panel on a terminal, a line every few seconds elsewhere.

Nothing from a file or a provider is printed here, except what `escape` made safe.
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

from stormbreak.batch.running.snapshot import RunSnapshot, Throughput
from stormbreak.batch.running.workers import Running
from stormbreak.cli.numbers import format_cost, short, span

LINE_EVERY = 5.0  # seconds between plain lines
SHOW_READING_AFTER = 1.0  # seconds of silence while INPUT is read
WIDEST = 100  # columns of the panel
_GONE = (OSError, ValueError)  # a pipe without a reader, a terminal that was closed
_NAME = 8  # columns of a name
_COLOURS = {"failed": "red", "circuit": "yellow"}  # of unusual values


class Progress(Protocol):
    """Called now and then while INPUT is read, then four times a second."""

    def on_read(self, rows: int) -> None:
        """Show the number of rows read, once it has taken a while."""
        ...

    def tick(self, runner: Running) -> None:
        """Show the snapshot of the runner."""
        ...


class Quiet:
    """Shows nothing."""

    def on_read(self, rows: int) -> None:
        """Nothing."""

    def tick(self, runner: Running) -> None:
        """Nothing."""


class Lines:
    """Writes a line every few seconds, and one at the end; none once the stream is gone."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream: IO[str] | None = stream
        self._throughput = Throughput()
        self._last = time.monotonic()
        self._report_reading_at = self._last + SHOW_READING_AFTER
        self._shown: RunSnapshot | None = None
        self._reported_stopping = False

    def on_read(self, rows: int) -> None:
        """Write a line if it is time."""
        now = time.monotonic()
        if now >= self._report_reading_at:
            self._report_reading_at = now + LINE_EVERY
            self._write(_reading(rows))

    def tick(self, runner: Running) -> None:
        """Write a line if it is time."""
        snapshot = runner.snapshot
        rate, eta = self._throughput.update(snapshot)
        if snapshot.stopping and snapshot.in_flight and not self._reported_stopping:
            self._reported_stopping = True
            self._write(_stopping(snapshot))
        if snapshot == self._shown or (
            snapshot.left and time.monotonic() - self._last < LINE_EVERY
        ):
            return
        self._shown = snapshot
        self._last = time.monotonic()
        line = f"{snapshot.done:,} done, {snapshot.failed:,} failed, {snapshot.left:,} left, {rate:,.1f} rows/s"
        line += f", {snapshot.in_flight} in flight, {snapshot.retries:,} retries, circuit {snapshot.circuit}"
        line += f", {span(eta)} to go" if snapshot.left and eta is not None else ""
        cost = format_cost(snapshot.cost, snapshot.cost_limit)
        line += f", cost {cost}" if cost else ""
        self._write(f"{line}; {snapshot.slow}" if snapshot.slow else line)

    def _write(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except _GONE:
            self._stream = None


class Panel:
    """Draws a bar with three columns of figures below it, in place."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._throughput = Throughput()
        self._began = time.monotonic()

    def on_read(self, rows: int) -> None:
        """Show the number of rows read, once it has taken a while."""
        if time.monotonic() - self._began >= SHOW_READING_AFTER:
            self._live.update(Text(_reading(rows), style="dim"), refresh=True)

    def tick(self, runner: Running) -> None:
        """Redraw."""
        snapshot = runner.snapshot
        self._live.update(
            panel(snapshot, *self._throughput.update(snapshot), self._live.console.width),
            refresh=True,
        )


def panel(snapshot: RunSnapshot, rate: float, eta: float | None, width: int) -> RenderableType:
    """Draw the panel."""
    table = Table.grid(expand=True)
    table.width = min(width - 2, WIDEST)  # or the ^C that a terminal echoes breaks the line
    table.add_row(_bar(snapshot, eta))
    table.add_row(_figures(snapshot, rate))
    cost = format_cost(snapshot.cost, snapshot.cost_limit)
    if cost:
        table.add_row(_named("cost", cost))
    if snapshot.slow:
        table.add_row(_named("slow", snapshot.slow))
    if snapshot.stopping and snapshot.in_flight:
        table.add_row(Text(_stopping(snapshot), style="yellow"))
    return table


@contextmanager
def progress_on(stream: IO[str] | None, *, quiet: bool) -> Iterator[Progress]:
    """Show progress on `stream` while the context lasts. A stream that goes away ends nothing."""
    if quiet or stream is None or stream.closed:
        yield Quiet()
    elif stream.isatty():
        live = Live(console=Console(file=stream), auto_refresh=False, transient=True)  # no thread
        with suppress(*_GONE):
            live.start()
        try:
            yield Panel(live)
        finally:
            with suppress(*_GONE):
                live.stop()
    else:
        yield Lines(stream)


def _bar(snapshot: RunSnapshot, eta: float | None) -> Table:
    over = snapshot.total - snapshot.left
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(ratio=1)
    row.add_column(justify="right", min_width=5)
    row.add_column(justify="right", min_width=15)
    left = f"{span(eta)} to go" if snapshot.left and eta is not None else ""
    share = f"{int(100 * over / snapshot.total)} %" if snapshot.total else ""
    row.add_row(ProgressBar(total=snapshot.total, completed=over), share, left)
    return row


def _figures(snapshot: RunSnapshot, rate: float) -> Table:
    columns = (
        {
            "done": f"{snapshot.done:,}",
            "failed": f"{snapshot.failed:,}",
            "left": f"{snapshot.left:,}",
        },
        {
            "rows/s": f"{rate:,.1f}",
            "in flight": f"{snapshot.in_flight:,} of {snapshot.width:,}",
            "waiting": f"{snapshot.waiting:,}",
        },
        {
            "retries": f"{snapshot.retries:,}",
            "circuit": snapshot.circuit,
            "tokens": f"{short(snapshot.input_tokens)} in, {short(snapshot.output_tokens)} out",
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
            usual = value in {"0", "closed"} or name not in _COLOURS
            cells += [name, Text(value, style="" if usual else _COLOURS[name]), ""]
        table.add_row(*cells)
    return table


def _named(name: str, text: str) -> Text:
    """A line of its own, below the first column."""
    line = Text(name, style="dim", no_wrap=True, overflow="ellipsis")
    line.pad_right(_NAME + 1 - len(line))
    return line.append(text, style="not dim")


def _reading(rows: int) -> str:
    return f"reading INPUT: {rows:,} rows"


def _stopping(snapshot: RunSnapshot) -> str:
    how = "again" if snapshot.interrupted else "twice"
    return f"stopping: {snapshot.in_flight:,} answers are still to come; Ctrl-C {how} stops at once"
