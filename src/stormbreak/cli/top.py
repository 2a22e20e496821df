"""`stormbreak top`: a live view of a batch or an application in a terminal."""

import io
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from msgspec.json import format as indented
from rich.console import Console, Group
from rich.live import Live

from stormbreak.batch.store.lock import held
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.cli.command import flag, option, options, subcommand
from stormbreak.cli.options import FILE, JSON
from stormbreak.cli.output import draw, save_picture, say
from stormbreak.cli.top_screen import ASCII, Frame, Glyphs
from stormbreak.cost.formatting import short
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, system_errors_at
from stormbreak.telemetry.state import State, encoded
from stormbreak.telemetry.status_client import (
    ConnectionClosedError,
    NoResponseError,
    NoServerError,
    NotStormbreakError,
    ServerAddress,
    fetch_state,
    parse_address,
)

# ---------------------------------------------------------------- key presses

Wait = Callable[[float], str]  # waits at most these seconds; returns the pressed keys


@contextmanager
def pressed() -> Iterator[Wait]:
    """Read keys during the block, and restore the terminal. Without a terminal, no key is ever pressed."""
    try:
        keyboard = sys.stdin.fileno()
        before = termios.tcgetattr(keyboard)
    except (OSError, ValueError, AttributeError, termios.error):
        yield _nothing
        return
    tty.setcbreak(keyboard)
    try:
        yield lambda seconds: _read(keyboard, seconds)
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _nothing(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _read(keyboard: int, seconds: float) -> str:
    ready, _, _ = select.select([keyboard], [], [], seconds)
    if not ready:
        return ""
    read = os.read(keyboard, 64)
    return read.decode(errors="replace") or "q"  # end of file: the terminal is closed


# ---------------------------------------------------------------- find the status server


def find(text: str | None) -> ServerAddress:
    """Return the address of the state for `text`; None means the only running batch in this folder.

    Raises ConfigurationError if there is none, or more than one.
    """
    if text is None:
        return _only_one(Path())
    return parse_address(text) or _of_path(Path(text))


def _of_path(path: Path) -> ServerAddress:
    if _is(path.is_socket):
        return ServerAddress(path=path)
    files = BatchPaths.of(path)
    if _is(files.socket.is_socket) and held(files):
        return ServerAddress(path=files.socket, name=str(path))
    if held(files):
        why = "its run has no socket here; start it with --metrics-port, or use stormbreak batch status"
    elif _is(files.run.is_file):
        why = "no run is active"
    else:
        why = "not the OUTPUT of a batch, a socket or a port"
    raise ConfigurationError(f"{path_of(path)}: {why}")


def _only_one(folder: Path) -> ServerAddress:
    outputs = [
        each.with_suffix("") for each in sorted(folder.glob("*.sock")) if _is(each.is_socket)
    ]
    running = [output for output in outputs if held(BatchPaths.of(output))]
    if not running:
        raise ConfigurationError(
            "no batch is running in this folder; give an OUTPUT, a port or a socket"
        )
    if len(running) > 1:
        names = ", ".join(path_of(output) for output in running[:5])
        raise ConfigurationError(
            f"several batches are running in this folder: {names}; give one of them"
        )
    return ServerAddress(path=BatchPaths.of(running[0]).socket, name=str(running[0]))


def _is(fact: Callable[[], bool]) -> bool:
    """Return the fact; False if the file system cannot show it, such as without permission."""
    try:
        return fact()
    except OSError:
        return False


EVERY = 1.0  # seconds between two requests
TICK = 0.2  # seconds between two checks for keys and for the size of the terminal
FIRST = 5.0  # seconds to wait for the first answer
PICTURE_WIDTH = 100
LEAVES = frozenset("qQ\x04")


@subcommand("stormbreak top answers.jsonl", "stormbreak top 9464 --json")
@click.argument("target", required=False)
@options(
    "Options",
    flag("--once", "Print one frame and exit."),
    option("-o --output", FILE, "Save one frame as FILE.svg and exit."),
    JSON,
)
def command(target: str | None, *, once: bool, as_json: bool, output: Path | None) -> int:
    """Watch a running batch or application: its targets, circuits, queues, limits and decisions.

    TARGET is the OUTPUT of a batch, a local port, its URL, or a Unix socket. The default is the only batch that runs in
    this folder. Press q or Ctrl-C to quit; the watched process keeps running.
    """
    place = find(target)
    state = _first_look(place)
    _forgive(sys.stdout)
    console = Console()
    if as_json:
        say(indented(encoded(state)).decode())
    elif output is not None:
        _save(state, place, output)
    elif once or not console.is_terminal or console.is_dumb_terminal:
        frame = Frame(where=str(place), width=console.width, glyphs=_glyphs(console))
        draw(Group(*frame.lines(state)))
    else:
        ended = None
        with _interruptible():
            ended = _watch(console, place, state)
        if ended is not None:
            say(ended)
    return 0


def _forgive(output: object) -> None:
    """Show letters that a terminal cannot encode as question marks: names come from outside."""
    if isinstance(output, io.TextIOWrapper):
        output.reconfigure(errors="replace")


def _first_look(place: ServerAddress) -> State:
    try:
        return fetch_state(place, FIRST)
    except NoServerError as gone:
        raise ConfigurationError(f"{place}: nothing answers there: {gone}") from gone
    except NoResponseError as silent:
        raise ConfigurationError(f"{place}: no answer within {FIRST:g} s") from silent
    except NotStormbreakError as stranger:
        raise ConfigurationError(
            f"{place}: not a stormbreak status server: {stranger}"
        ) from stranger


def _watch(console: Console, place: ServerAddress, state: State) -> str | None:
    """Show the state until the user quits; return a last line if the watched process ended."""
    answered_at = asked_at = time.monotonic()
    drawn: object = None
    with pressed() as wait, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            silent = int(asked_at - answered_at)
            now_drawn = console.size, id(state), silent
            if now_drawn != drawn:
                drawn = now_drawn
                live.update(_group(console, place, state, silent), refresh=True)
            if LEAVES.intersection(wait(TICK)):
                return None
            if time.monotonic() - asked_at < EVERY:
                continue
            asked_at = time.monotonic()
            try:
                state = fetch_state(place, EVERY)
                answered_at = asked_at = time.monotonic()
            except (
                NoResponseError,
                ConnectionClosedError,
            ):  # the next request shows whether it has ended
                asked_at = time.monotonic()
            except (NoServerError, NotStormbreakError):
                break
    return f"{place} has ended; last seen: {_last_seen(state)}"


def _group(console: Console, place: ServerAddress, state: State, silent: float) -> Group:
    width, height = console.size
    frame = Frame(
        where=str(place),
        width=width,
        height=height,
        glyphs=_glyphs(console),
        silent=silent,
        live=True,
    )
    return Group(*frame.lines(state))


def _glyphs(console: Console) -> Glyphs:
    return Glyphs() if console.encoding.startswith("utf") else ASCII


def _last_seen(state: State) -> str:
    batch = state.batch
    if batch is None:
        return f"{short(state.counts.answered)} of {short(state.counts.calls)} calls answered"
    text = f"{batch.done:,} of {batch.total:,} rows done"
    return f"{text}, {batch.failed:,} failed" if batch.failed else text


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block without an error."""
    caught = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in caught]
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        for number, handler in zip(caught, before, strict=True):
            signal.signal(number, handler)


def _save(state: State, place: ServerAddress, path: Path) -> None:
    console = Console(
        record=True, width=PICTURE_WIDTH, color_system="truecolor", file=io.StringIO()
    )
    console.print(Group(*Frame(where=str(place), width=PICTURE_WIDTH).lines(state)))
    with system_errors_at(path):
        save_picture(console, path, title="stormbreak top")
