"""A batch at work, and `stormbreak top` on a terminal of its own, as a user has them."""

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
    """A batch that has answered some rows and goes on for long; its process, and OUTPUT."""
    source, output = folder / "in.jsonl", folder / "out.jsonl"
    if not source.exists():
        write(source, chat_rows(rows))
    args = run_args(source, output, provider.base_url)
    with started(*args, "--concurrency", "8", *flags, env=env or {}) as process:
        wait_until(lambda: output.exists() and output.stat().st_size > 2_000, "an answer")
        yield process, output


def port_of(process):
    """Where a batch says that it serves."""
    said = process.stderr.readline()
    return int(said.removeprefix("serving http://").removesuffix("/metrics\n").rpartition(":")[2])


def asked(path, page="/state"):
    """One GET at a socket, or at a port; status and text."""
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
    status, text = asked(path)
    assert status == 200
    return json.loads(text)


class Terminal:
    """What a command shows on a terminal, whose keys and size the test has."""

    def __init__(self, process, screen, before):
        self.process = process
        self._screen = screen
        self.before = before  # the settings that the command found
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
        """Read until these words stand in the last frame; that frame, as lines."""
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
        """The terminal's settings, to see that they are left as they were."""
        return termios.tcgetattr(self._screen)


@contextmanager
def on_terminal(*args, columns=80, lines=24, **options):
    """Run the command on a terminal, keyboard included."""
    screen, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    before = termios.tcgetattr(screen)
    env = {"COLUMNS": "", "LINES": ""} | options.pop("env", {})
    # In a session of its own whose terminal it is, or Ctrl-C would reach nobody.
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
