"""A running batch, and `stormbreak top` on a pseudo-terminal."""

import fcntl
import http.client
import json
import os
import pty
import re
import select
import struct
import termios
import time
from contextlib import contextmanager, suppress

from batches import PATIENCE, chat_rows, run_args, scenario, started, wait_until, write
from fork_server import own_terminal

from stormbreak.telemetry.status_server import SocketFile

STORM = scenario(
    {"kind": "503", "share": 0.2}, {"kind": "429", "share": 0.1, "retry_after": 1}, service=0.15
)


@contextmanager
def batch_at_work(provider, folder, *flags, rows=5_000, env=None):
    """Run a long batch until it has answered some rows; yield its process and OUTPUT."""
    source, output = folder / "in.jsonl", folder / "out.jsonl"
    if not source.exists():
        write(source, chat_rows(rows))
    args = run_args(source, output, provider.base_url)
    with started(*args, "--concurrency", "8", *flags, env=env or {}) as process:
        wait_until(lambda: output.exists() and output.stat().st_size > 2_000, "an answer")
        yield process, output


def port_of(process):
    """The port that a batch prints."""
    announcement = process.stderr.readline()
    return int(
        announcement.removeprefix("serving http://").removesuffix("/metrics\n").rpartition(":")[2]
    )


def http_get(path, page="/state"):
    """Send a GET to a socket or a port; return the status and the text."""
    connection = http.client.HTTPConnection("127.0.0.1", path if isinstance(path, int) else 80)
    if not isinstance(path, int):
        connection.sock = SocketFile(path).connected(5)
    connection.request("GET", page)
    answer = connection.getresponse()
    try:
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def state_at(path):
    status, text = http_get(path)
    assert status == 200
    return json.loads(text)


class Terminal:
    """The output of a command on a terminal; the test controls its keys and size."""

    def __init__(self, process, screen, before):
        self.process = process
        self._screen = screen
        self.before = before  # the settings before the command
        self.seen = b""

    def press(self, keys):
        os.write(self._screen, keys)

    def resize(self, columns, lines):
        fcntl.ioctl(self._screen, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self, seconds=0.1):
        if not select.select([self._screen], [], [], seconds)[0]:
            return b""
        with suppress(OSError):  # the other end is closed when the process is gone
            piece = os.read(self._screen, 1 << 16)
            self.seen += piece
            return piece
        return b""

    def wait_for(self, words):
        """Read until these words are in the last frame; return the lines of that frame."""
        give_up_at = time.monotonic() + PATIENCE
        while words not in "\n".join(self.frame):
            assert time.monotonic() < give_up_at, "\n".join(self.frame)
            self.read()
        return self.frame

    def wait_for_end(self):
        give_up_at = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < give_up_at
            self.read()
        while self.read(0.05):
            pass
        return self.process.returncode

    @property
    def frame(self):
        last = self.seen.split(b"\x1b[H")[-1].decode(errors="replace")
        return [
            line.rstrip("\r") for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last).split("\n")
        ]

    @property
    def text(self):
        return self.seen.decode(errors="replace")

    @property
    def modes(self):
        """The settings of the terminal, to check that they are restored."""
        return termios.tcgetattr(self._screen)


@contextmanager
def on_terminal(*args, columns=80, lines=24, **options):
    """Run the command on a terminal with a keyboard."""
    screen, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    before = termios.tcgetattr(screen)
    env = {"COLUMNS": "", "LINES": ""} | options.pop("env", {})
    # In a new session with this terminal, or Ctrl-C would reach no process.
    options |= {"start_new_session": True, "preexec_fn": own_terminal}
    with started(
        *args, stdin=end, stdout=end, stderr=end, text=False, env=env, **options
    ) as process:
        os.close(end)
        try:
            yield Terminal(process, screen, before)
        finally:
            process.kill()
            os.close(screen)
