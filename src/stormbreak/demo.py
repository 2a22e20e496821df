"""The demo: a provider in its own process, 500 prompts in a file, and two acts: the article's batch code, and stormbreak."""

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from stormbreak.batch.input.index import Rows
from stormbreak.batch.job import Job, run_job
from stormbreak.batch.run_options import BatchOptions
from stormbreak.batch.running.runner import End
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.presets import BATCH, OFF
from stormbreak.errors import ConfigurationError
from stormbreak.events import Event, Returned, Sent
from stormbreak.http.client import AsyncClient
from stormbreak.types import Verdict

# ---------------------------------------------------------------- provider and prompts

ROWS = 500
MODEL = "gpt-4.1"
MARKER = ".stormbreak-demo"  # marks files that may be replaced

_INSTRUCTION = "You answer questions about products from the catalogue."


def prepare(directory: Path) -> tuple[Path, Path]:
    """Write the job into `directory`, without files of earlier demos; return the input and output file.

    Raises ConfigurationError if files of those names exist and are not from a demo.
    """
    directory.mkdir(parents=True, exist_ok=True)
    marker = directory / MARKER
    documents, output = directory / "documents.jsonl", directory / "answers.jsonl"
    leftovers = [documents, *directory.glob("answers*")]
    if not marker.exists() and any(path.exists() for path in leftovers):
        raise ConfigurationError(
            f"{directory} has files that are not from a demo; choose another --output"
        )
    marker.touch()
    for path in leftovers:
        path.unlink(missing_ok=True)
    write_documents(documents)
    return documents, output


def write_documents(path: Path) -> None:
    """Write the article's job: 500 retrieval prompts."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(ROWS):
            messages = [
                {"role": "system", "content": _INSTRUCTION},
                {"role": "user", "content": f"What does the catalogue say about product {number}?"},
            ]
            body = {"model": MODEL, "messages": messages}
            row = {
                "custom_id": f"document-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
            }
            file.write(json.dumps(row | {"body": body}) + "\n")


class Stage(NamedTuple):
    """A running provider."""

    base_url: str

    def reset(self) -> None:
        """Restart the storm with the next request."""
        url = self.base_url.removesuffix("/v1") + "/_provider/reset"
        urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10).close()  # noqa: S310


@contextmanager
def provider(scenario: str, *, seed: int) -> Iterator[Stage]:
    """Serve `scenario` from its own process during the block."""
    command = [sys.executable, "-m", "stormbreak", "provider", "serve"]
    command += ["--port", "0", "--scenario", scenario, "--seed", str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None
            text = process.stdout.readline()
            if "http://" not in text:
                raise ConfigurationError("the embedded provider did not start")
            yield Stage(text.split()[-1])
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            process.kill()


# ---------------------------------------------------------------- record of an act

CALM_SHARE = 0.95  # share of successes of a recovered act ...
CALM_SECONDS = 5.0  # ... over this many seconds


@dataclass(slots=True)
class Record:
    """Attempts of one act. Times are storm seconds, `speed` times faster than the clock's."""

    speed: float
    began: float | None = None
    sent: int = 0
    returned: list[tuple[float, bool]] = field(default_factory=list)

    def on_event(self, event: Event) -> None:
        if isinstance(event, Sent):
            self.sent += 1
            self.began = event.at if self.began is None else self.began
        elif isinstance(event, Returned) and self.began is not None:
            at = (event.at - self.began) * self.speed
            self.returned.append((at, event.verdict is Verdict.OK))

    @property
    def last_at(self) -> float:
        return self.returned[-1][0] if self.returned else 0.0

    def recovery(self, faults_end: float) -> float | None:
        """Seconds from the end of the faults to the first `CALM_SECONDS` with `CALM_SHARE` successes; None: never."""
        late = [(at, ok) for at, ok in self.returned if at >= faults_end]
        starts = [faults_end, *(at for at, ok in late if ok)]
        for start in starts:
            window = [ok for at, ok in late if start <= at < start + CALM_SECONDS]
            if window and sum(window) >= CALM_SHARE * len(window):
                return start - faults_end
        return None

    def strip(self, width: int, until: float) -> Sequence[tuple[int, int]]:
        """Count successes and failures in `width` equal slices of the time up to `until`."""
        slices = [[0, 0] for _ in range(width)]
        for at, ok in self.returned:
            index = min(int(at / until * width), width - 1)
            slices[index][0 if ok else 1] += 1
        return [(good, bad) for good, bad in slices]


# ---------------------------------------------------------------- acts

CONCURRENCY = 10

_ONE_ATTEMPT = replace(OFF, attempt_timeout=60.0, limit=FixedLimit(max_in_flight=CONCURRENCY))
_YEAR = 365.25 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of one act."""

    answered: int
    failed: int
    record: Record
    interrupted: bool = False


def article_sleep(row: int) -> str:
    """Format how long the article's code sleeps after a 429 of row `row`: 2 ** row * 0.5 s."""
    seconds = 2**row / 2
    for unit, size in (("years", _YEAR), ("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            count = seconds / size
            return (
                f"{count:,.0f} {unit}" if count < 1e9 else f"{count:.0e} {unit}".replace("e+", "e")
            )
    return f"{seconds:g} s"


def article(
    documents: Path, base_url: str, speed: float, *, lost: Callable[[int, Verdict], None]
) -> Result:
    """Send each row once, ten at a time; call `lost` for each row that fails."""
    record = Record(speed)
    answered = asyncio.run(_send_once(documents, base_url, record, lost))
    return Result(answered=answered, failed=ROWS - answered, record=record)


async def _send_once(
    documents: Path, base_url: str, record: Record, lost: Callable[[int, Verdict], None]
) -> int:
    with Rows.read(documents) as rows:
        async with AsyncClient(base_url=base_url, policy=_ONE_ATTEMPT) as client:
            client.subscribe(record.on_event)

            async def send(index: int) -> bool:
                row = rows.row_at(index)
                ended = await client.ask(row.endpoint, row.body)
                verdict = ended.outcome.verdict
                if verdict is not Verdict.OK:
                    lost(index, verdict)
                return verdict is Verdict.OK

            return sum(await asyncio.gather(*(send(index) for index in range(len(rows)))))


def stormbreak(
    documents: Path, output: Path, base_url: str, speed: float, tick: Callable[[int], None]
) -> Result:
    """Run the same rows with `batch run`; call `tick` with the number of answered rows."""
    record = Record(speed)
    policy = replace(BATCH, limit=FixedLimit(max_in_flight=CONCURRENCY))
    options = BatchOptions(base_url=base_url)
    job = Job(source=documents, output=output, policy=policy, options=options)
    summary = run_job(job, lambda runner: tick(runner.journal.done), listeners=[record.on_event])
    return Result(
        answered=summary.successful,
        failed=summary.failed,
        record=record,
        interrupted=summary.end == End.INTERRUPTED.value,
    )


# ---------------------------------------------------------------- screen

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
        text = verdict.value.replace("_", " ")
        if verdict is Verdict.THROTTLED:
            text = f"a 429 and would now sleep [bold red]{article_sleep(row)}[/]"
        self._print(f"   [red]✗[/] row {row} got {text}; lost", highlight=False)

    def many_lost(self) -> None:
        if self._lost > SHOWN:
            self._print(f"   [red]✗[/] ... and {self._lost - SHOWN} more", highlight=False)

    @contextmanager
    def bar(self) -> Iterator[Callable[[int], None]]:
        """Show a bar of answered rows during the block; yield the function that sets it to a number."""
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
        text.append("x" if bad > good and not coloured else _bar_of(good, bad, top))
    return text


def _bar_of(good: int, bad: int, top: int) -> Text:
    """Draw one slice: the height shows the attempts, on a root scale, the colour the majority of outcomes."""
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
