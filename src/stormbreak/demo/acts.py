"""The demo: a provider in its own process, 500 prompts in a file, and two acts: the article's batch code, and stormbreak."""

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

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

    Raises:
        ConfigurationError: files of those names exist and are not from a demo.
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
                "body": body,
            }
            file.write(json.dumps(row) + "\n")


class Stage:
    """A running provider."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def reset(self) -> None:
        """Restart the storm with the next request."""
        url = self.base_url.removesuffix("/v1") + "/_provider/reset"
        urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10).close()  # noqa: S310


@contextmanager
def provider(scenario: str, *, seed: int) -> Iterator[Stage]:
    """Serve `scenario` from its own process during the block."""
    command = [sys.executable, "-m", "stormbreak", "provider", "serve"]
    command += ["--port", "0", "--scenario", scenario, "--seed", str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        assert process.stdout is not None
        text = process.stdout.readline()
        if "http://" not in text:
            raise ConfigurationError("the embedded provider did not start")
        yield Stage(text.split()[-1])
    finally:
        process.terminate()
        process.wait(timeout=10)
        assert process.stdout is not None
        process.stdout.close()


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
        """Storm time of the last ended attempt."""
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
