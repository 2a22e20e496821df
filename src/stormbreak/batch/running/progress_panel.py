"""Draw the progress of a run with rich: a bar with three columns of figures below it, on a terminal or in a notebook.

Text from a file or a provider is shown only after `escape` made it safe.
"""

import time
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stormbreak.batch.running.snapshot import (
    SHOW_READING_AFTER,
    RunSnapshot,
    Throughput,
    reading,
    stopping,
)
from stormbreak.batch.running.workers import Running
from stormbreak.cost.formatting import format_cost, short, span

WIDEST = 100  # columns
_NAME = 8  # columns of a name
_COLOURS = {"failed": "red", "circuit": "yellow"}  # of unusual values


class Panel:
    """Draws each snapshot in place, with `show`. `width` is the number of columns."""

    def __init__(
        self,
        show: Callable[[RenderableType], object],
        width: Callable[[], int] = lambda: WIDEST + 2,
    ) -> None:
        self._show = show
        self._width = width
        self._throughput = Throughput()
        self._began = time.monotonic()

    def on_read(self, rows: int) -> None:
        """Show the number of rows read, once reading has taken a while."""
        if time.monotonic() - self._began >= SHOW_READING_AFTER:
            self._show(Text(reading(rows), style="dim"))

    def tick(self, runner: Running) -> None:
        snapshot = runner.snapshot
        self._show(panel(snapshot, *self._throughput.update(snapshot), self._width()))


def notebook_panel() -> Panel | None:
    """Make a panel in the running cell of a notebook; None if this is not a notebook."""
    if not Console().is_jupyter:
        return None
    from IPython.display import display  # noqa: PLC0415 - a notebook has it

    cell = display(Text(), display_id=True)  # type: ignore[no-untyped-call]
    return Panel(cell.update)


def panel(snapshot: RunSnapshot, rate: float, eta: float | None, width: int) -> RenderableType:
    table = Table.grid(expand=True)
    table.width = min(width - 2, WIDEST)  # otherwise the ^C that a terminal echoes breaks the line
    table.add_row(_bar(snapshot, eta))
    table.add_row(_figures(snapshot, rate))
    cost = format_cost(snapshot.cost, snapshot.cost_limit)
    if cost:
        table.add_row(_named("cost", cost))
    if snapshot.slow:
        table.add_row(_named("slow", snapshot.slow))
    if snapshot.stopping and snapshot.in_flight:
        table.add_row(Text(stopping(snapshot), style="yellow"))
    return table


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
    """A separate line, below the first column."""
    line = Text(name, style="dim", no_wrap=True, overflow="ellipsis")
    line.pad_right(_NAME + 1 - len(line))
    return line.append(text, style="not dim")
