"""Show the progress of a run: a live panel on a terminal, a line every few seconds elsewhere.

Text from a file or a provider is printed only after `escape` made it safe.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from stormbreak.batch.running.snapshot import (
    SHOW_READING_AFTER,
    RunSnapshot,
    Throughput,
    reading,
    stopping,
)
from stormbreak.batch.running.workers import Running
from stormbreak.cost.formatting import format_cost, span

if TYPE_CHECKING:
    from stormbreak.batch.running.progress_panel import Panel

LINE_EVERY = 5.0  # seconds between plain lines
_GONE = (OSError, ValueError)  # a pipe without a reader, a terminal that was closed


class Lines:
    """Writes a line every few seconds, and one at the end; does nothing without a stream, or once it is closed."""

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream
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
            self._write(reading(rows))

    def tick(self, runner: Running) -> None:
        """Write a line if it is time."""
        snapshot = runner.snapshot
        rate, eta = self._throughput.update(snapshot)
        if snapshot.stopping and snapshot.in_flight and not self._reported_stopping:
            self._reported_stopping = True
            self._write(stopping(snapshot))
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


@contextmanager
def progress_on(stream: IO[str] | None, *, quiet: bool) -> Iterator["Lines | Panel"]:
    """Show progress on `stream` while the context lasts. A stream that is closed does not stop the run."""
    if quiet or stream is None or stream.closed:
        yield Lines(None)
    elif stream.isatty():
        from rich.console import Console  # noqa: PLC0415 - only a terminal needs rich
        from rich.live import Live  # noqa: PLC0415

        from stormbreak.batch.running import progress_panel  # noqa: PLC0415

        live = Live(
            console=Console(file=stream), auto_refresh=False, transient=True
        )  # no thread can start
        with suppress(*_GONE):
            live.start()
        try:
            yield progress_panel.Panel(
                lambda drawn: live.update(drawn, refresh=True), lambda: live.console.width
            )
        finally:
            with suppress(*_GONE):
                live.stop()
    else:
        yield Lines(stream)
