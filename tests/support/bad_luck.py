"""A batch with random errors and in an outage, on real sockets.

With random errors, the command and a plain loop run at the same time on one machine, each with its own provider. The fault
of an attempt depends on the seed, the row and its number of attempts, so all programs get the same faults. A program is
timed from its start until its OUTPUT has a number of lines.

A row has at most ten attempts. All ten fail for 0.25 % of the rows (0.55^10): 1.3 of 500 on average, more than five for
0.2 % of the seeds. `unlucky` computes these rows in advance.
"""

import asyncio
import json
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from itertools import count
from math import ceil, inf
from pathlib import Path
from typing import NamedTuple

from batches import chat_rows, command, environment, provider_process, run_args, scenario, write

from stormbreak.core.row_schedule import ATTEMPTS
from stormbreak.provider.capacity_model import ProviderModel
from stormbreak.provider.formats.registry import FORMATS, understand
from stormbreak.provider.scenario_file import parse
from stormbreak.provider.server import ProviderServer

ROWS, WIDTH, TIMEOUT = 500, 64, 6.0
FAULTS = (  # 55 % of all attempts
    {"kind": "429", "share": 0.08, "retry_after": 1},
    {"kind": "429", "share": 0.05},
    {"kind": "503", "share": 0.10},
    {"kind": "529", "share": 0.05},
    {"kind": "reset", "share": 0.09},
    {"kind": "hang", "share": 0.05},
    {"kind": "cut_body", "share": 0.13},
)
LUCK = scenario(
    *FAULTS, slots=200, service=0.3, variation=0.5, queue=800, max_requests_per_second=3000
)
LOOP = Path(__file__).parent / "jitter_loop.py"
LOOK = 0.02  # seconds between two checks of the files
AT_MOST = 300.0  # seconds; longer counts as endless


def unlucky(rows, seed, *, storm=LUCK, sends=ATTEMPTS):
    """The custom_ids of the rows that no client gets answered within this number of attempts."""
    model = ProviderModel(parse(storm), seed)
    moments = count(0, 2 * int(TIMEOUT))

    def is_answered(row):
        asked = understand(FORMATS[row["url"]], {}, json.dumps(row["body"]).encode())
        for attempt in range(1, sends + 1):
            now = next(moments)
            model.arrive(now, asked.key + attempt)
            if any(reply.fault is None for reply in model.advance(now + TIMEOUT)):
                return True
        return False

    return {row["custom_id"] for row in rows if not is_answered(row)}


class Racer:
    """A running program; with `kill_after`, it is killed after these seconds and started again."""

    def __init__(self, words, output, *, enough, kill_after=None):
        self._words = words
        self._output = output
        self._enough = enough
        self._kill_after = kill_after
        self._ran_before = 0.0
        self._start()

    def _start(self):
        self._began = time.monotonic()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(self._words, env=environment(), **quiet)

    def look(self):
        """Check the number of lines; return the seconds that they took, without the pause, or None."""
        ran, code = time.monotonic() - self._began, self._process.poll()
        if self._output.exists() and self._output.read_bytes().count(b"\n") >= self._enough:
            return self._ran_before + ran
        assert code is None, f"{self._output.name}: the program ended with {code}"
        if self._kill_after is not None and ran >= self._kill_after:
            self.stop()
            self._ran_before, self._kill_after = time.monotonic() - self._began, None
            self._start()
        return None

    def stop(self):
        self._process.kill()
        self._process.wait()


def loop(source, output, url, *, width=WIDTH):
    """The command line of the plain loop."""
    words = (sys.executable, LOOP, source, output, url, width, TIMEOUT)
    return [str(word) for word in words]


def ours(source, output, url, *more):
    """The command line of `batch run`."""
    return command(*run_args(source, output, url), "--timeout", TIMEOUT, "--quiet", *more)


def race(folder, seed, programs, *, rows=ROWS, storm=LUCK, share=0.99, kill_after=None):
    """Run `programs` side by side; return the seconds of each for this share of the rows, by name; inf after `AT_MOST`.

    If ten attempts answer fewer rows, the time is for all of these.

    A program is a function of INPUT, OUTPUT and the address that returns a command line. `kill_after` is by name.
    """
    all_rows = chat_rows(rows)
    enough = min(ceil(share * rows), rows - len(unlucky(all_rows, seed, storm=storm)))
    source = write(folder / "in.jsonl", all_rows)
    scenario_file = folder / "luck.toml"
    scenario_file.write_text(storm)
    took = {}
    with ExitStack() as stack:
        provider = ("--scenario", scenario_file, "--seed", seed)
        urls = {name: stack.enter_context(provider_process(*provider)) for name in programs}
        racers = {}
        for name, words in programs.items():
            output = folder / f"{name}.jsonl"
            racers[name] = Racer(
                words(source, output, urls[name]),
                output,
                enough=enough,
                kill_after=(kill_after or {}).get(name),
            )
            stack.callback(racers[name].stop)
        give_up_at = time.monotonic() + AT_MOST
        while racers:
            for name, racer in tuple(racers.items()):
                seconds = inf if time.monotonic() > give_up_at else racer.look()
                if seconds is not None:
                    took[name] = seconds
                    racers.pop(name).stop()
            time.sleep(LOOK)
    return took


@contextmanager
def busy_beside(count):
    """Run `count` busy processes."""
    with ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while 1: pass"]))
            stack.callback(process.kill)
        yield


# ------------------------------------------------------------ an outage

OUTAGE = 8.0  # seconds
NARROW = 20  # attempts in flight
LONG_ENOUGH = 3_000  # rows, so that some are left at the end of the outage


class Outage(NamedTuple):
    """Requests during the outage, and seconds from its end to the first answer."""

    sent: int
    answered_after: float


class _Moments:
    """An observer that records the times of requests and of written answers."""

    def __init__(self):
        self.received_at = []
        self.answered_at = []

    def received(self, _, at):
        self.received_at.append(at)

    def answered(self, _, at):
        self.answered_at.append(at)


def outage(calm):
    """A scenario with an outage `calm` seconds after its first request, and the end of the outage."""
    down = {"kind": "down", "at": calm, "until": calm + OUTAGE}
    return scenario(down, slots=200, service=0.2, variation=0.5), calm + OUTAGE


async def outlived(folder, *, calm, seed=0):
    """Run a batch with `NARROW` in flight through an outage that begins `calm` seconds after its first request."""
    source = write(folder / "in.jsonl", chat_rows(LONG_ENOUGH))
    text, over = outage(calm)
    playing, seen = parse(text), _Moments()
    server = ProviderServer(playing, seed=seed)
    await server.start()
    words = ours(source, folder / "out.jsonl", server.base_url, "--concurrency", NARROW)
    try:
        server.play(playing, seen)
        process = await asyncio.create_subprocess_exec(*map(str, words), env=environment())
        try:
            give_up_at = time.monotonic() + AT_MOST
            while not (seen.answered_at and seen.answered_at[-1] > over):
                assert time.monotonic() < give_up_at
                await asyncio.sleep(LOOK)
        finally:
            process.kill()
            await process.wait()
    finally:
        await server.close()
    return Outage(
        sent=sum(calm <= at < over for at in seen.received_at),
        answered_after=min(at for at in seen.answered_at if at > over) - over,
    )
