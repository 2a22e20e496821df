"""The output of the demo."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from stormbreak.demo.acts import ROWS, Result, article_sleep
from stormbreak.types import Verdict

WIDTH = 54  # slices of the strip
INDENT = 22  # columns before it
SHOWN = 4  # lost rows with a line

_BARS = " ▁▂▃▄▅▆▇█"


class Screen:
    """Prints the demo to a console."""

    def __init__(self, console: Console) -> None:
        self._print = console.print
        self._coloured = console.color_system is not None
        self._console = console
        self._lost = 0

    def open(self, *, spike: tuple[float, float], speed: float) -> None:
        begins, ends = spike
        text = Text.assemble(
            ("A sale day. ", "bold"),
            "Traffic at an AI provider rises by 340 % for ",
            (f"{ends - begins:.0f} seconds", "bold"),
            ". Refused clients retry at once, so the provider answers with 429s long after. "
            "One job runs in the middle of it: ",
            (f"{ROWS} document prompts", "bold"),
            ", ten at a time.\n",
            (f"Played on real sockets, {speed:g} times as fast.", "dim"),
        )
        title = "[bold]stormbreak demo[/]"
        self._print(Panel(text, title=title, border_style="cyan", padding=(1, 2)))

    def sleeps(self) -> None:
        """Print what the article's code does after a 429."""
        self._print(
            "   After a 429 it sleeps 2 ** row / 2 seconds and keeps its slot meanwhile:\n"
            f"   row 20 would now sleep {article_sleep(20)}, row 37 would now sleep {article_sleep(37)}.\n"
            "   Not simulated here; the row counts as lost.",
            style="dim",
            highlight=False,
        )

    def act(self, number: int, title: str) -> None:
        self._lost = 0
        self._print(f"\n[bold cyan]{number}[/]  [bold]{title}[/]")

    def lost(self, row: int, verdict: Verdict) -> None:
        """Print a lost row; only the first few."""
        self._lost += 1
        if self._lost > SHOWN:
            return
        if verdict is Verdict.THROTTLED:
            text = (
                f"row {row} got a 429 and would now sleep [bold red]{article_sleep(row)}[/]; lost"
            )
        else:
            text = f"row {row} got {verdict.value.replace('_', ' ')}; lost"
        self._print(f"   [red]✗[/] {text}", highlight=False)

    def many_lost(self) -> None:
        if self._lost > SHOWN:
            self._print(f"   [red]✗[/] ... and {self._lost - SHOWN} more", highlight=False)

    @contextmanager
    def bar(self) -> Iterator[Callable[[int], None]]:
        """Show a bar of answered rows during the block; yield what moves it to a number."""
        columns = (
            TextColumn("  "),
            BarColumn(bar_width=40),
            TextColumn("{task.completed:.0f} of {task.total:.0f} answered"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task("", total=ROWS)
            yield lambda answered: progress.update(task, completed=answered)

    def compare(self, before: Result, after: Result, *, spike: tuple[float, float]) -> None:
        """Print both acts side by side, below a chart of their answers."""
        until = max(before.record.last_at, after.record.last_at, spike[1])
        self._print()
        for line in (
            _strip("the article's code", before, until, coloured=self._coloured),
            _strip("stormbreak", after, until, coloured=self._coloured),
            _scale(spike, until),
        ):
            self._print(line, no_wrap=True)
        legend = "green: answered; red: refused; height: attempts"
        if not self._coloured:
            legend = "bars: answered, by number of attempts; x: refused"
        self._print(" " * INDENT + legend + "\n", style="dim", highlight=False)
        self._print(_table(before, after, spike[1]))

    def close(self, after: Result, *, where: str) -> None:
        style = "bold green" if after.answered == ROWS else "bold red"
        self._print(
            f"\nstormbreak answered [{style}]{after.answered} of {ROWS}[/].", highlight=False
        )
        self._print(f"The answers are in [bold]{where}[/].", highlight=False)


def _strip(name: str, result: Result, until: float, *, coloured: bool) -> Text:
    slices = result.record.strip(WIDTH, until)
    top = max((good + bad for good, bad in slices), default=1) or 1
    text = Text(f"   {name}".ljust(INDENT))
    for good, bad in slices:
        refused = bad > good and not coloured
        text.append("x" if refused else _bar_of(good, bad, top))
    return text


def _bar_of(good: int, bad: int, top: int) -> Text:
    """Draw one slice: its height is the attempts, on a root scale, its colour the majority of outcomes."""
    if not good + bad:
        return Text("·", style="dim")
    height = round(((good + bad) / top) ** 0.5 * (len(_BARS) - 1))
    return Text(_BARS[max(1, height)], style="green" if good >= bad else "red")


def _scale(spike: tuple[float, float], until: float) -> Text:
    begins, ends = (min(WIDTH, round(at / until * WIDTH)) for at in spike)
    spiked = " " * begins + "━" * max(1, ends - begins) + " the spike"
    end = f"{until:.0f} storm s".rjust(WIDTH - len(spiked))
    return Text.assemble(" " * INDENT, (spiked, "yellow"), (end, "dim"))


def _table(before: Result, after: Result, faults_end: float) -> Table:
    table = Table(box=None, padding=(0, 3), header_style="bold")
    table.add_column("")
    table.add_column("the article's code", justify="right")
    table.add_column("stormbreak", justify="right", style="bold")
    for row in zip(_NAMES, _figures(before, faults_end), _figures(after, faults_end), strict=True):
        table.add_row(*row)
    return table


_NAMES = ("answered", "failed", "attempts", "amplification", "recovery", "storm seconds", "seconds")


def _figures(result: Result, faults_end: float) -> Sequence[str]:
    record = result.record
    recovery = record.recovery(faults_end)
    return (
        f"{result.answered}",
        f"[red]{result.failed}[/]" if result.failed else "0",
        f"{record.sent}",
        f"{record.sent / ROWS:.2f}",
        "never" if recovery is None else f"{recovery:.0f} storm s",
        f"{record.last_at:.0f}",
        f"{record.last_at / record.speed:.1f}",
    )
