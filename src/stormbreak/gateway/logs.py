"""The gateway's logs: its own log, and the access log with a line for each request. They never have keys or prompts."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from itertools import count
from secrets import token_hex
from typing import TextIO

import msgspec

from stormbreak.drivers.explain import AttemptHistory
from stormbreak.gateway.request import ENDPOINTS, LOOKUPS

LOG = logging.getLogger("stormbreak.gateway")
ACCESS_LOG = logging.getLogger("stormbreak.gateway.access")

_LOOKED_UP = ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing")
# The prefix of request ids, before a number: a random id for each request would take a system call.
_PROCESS = f"gw_{token_hex(10)}_"
_NUMBERS = count(1)


class RequestRecord(msgspec.Struct):  # its constructor is not written in Python
    """One request, for the log and the metrics. `model` is set once it is found in the settings."""

    method: str
    path: str
    key: str = "-"
    model: str = "-"
    status: int = 0
    outcome: str = "refused"
    history: AttemptHistory | None = None
    began: float = msgspec.field(default_factory=time.monotonic)
    request_id: str = msgspec.field(default_factory=lambda: f"{_PROCESS}{next(_NUMBERS):x}")

    @property
    def endpoint(self) -> str:
        return self.path if self.path in ENDPOINTS or self.path in LOOKUPS else "other"

    def line(self, took: float) -> str:
        """Format it for the access log; it `took` seconds."""
        history = self.history
        target = "-" if history is None else history.target.place
        attempts = 0 if history is None else history.attempts
        return (
            f"{self.method} {self.endpoint} {self.status} {took:.3f}s key={self.key} model={self.model}"
            f" target={target} attempts={attempts} {self.outcome} {self.request_id}"
        )


class _Lines(logging.StreamHandler[TextIO]):
    """Writes lines with the time. Access log lines bypass the records of `logging`, which takes a third of the time."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{_moment(record.created)} {record.levelname} {super().format(record)}"

    def write_line(self, text: str) -> None:
        try:
            with self.lock or nullcontext():
                self.stream.write(f"{_moment(time.time())} INFO {text}\n")
                self.flush()
        except (OSError, ValueError):  # an unwritable log must not fail requests
            pass


def _moment(at: float) -> str:
    """Return local time with milliseconds, as `logging` does."""
    return f"{_second(int(at))},{int(at % 1 * 1000):03}"


@lru_cache(maxsize=1)
def _second(at: int) -> str:
    return time.strftime(logging.Formatter.default_time_format, time.localtime(at))


@contextmanager
def log_to_stderr() -> Iterator[Callable[[str], None]]:
    """Write the log of this process to standard error; yield the function that writes a line for each request.

    `logging` does not look up facts that no line shows ("Optimization" in its HOWTO).
    """
    log, handler, looks_up = (
        logging.getLogger("stormbreak"),
        _Lines(sys.stderr),
        dict.fromkeys(_LOOKED_UP),
    )
    before = log.level, log.propagate, {name: getattr(logging, name) for name in looks_up}
    try:
        vars(logging).update(looks_up)
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
        yield handler.write_line
    finally:
        log.removeHandler(handler)
        level, log.propagate, looked_up = before
        log.setLevel(level)
        vars(logging).update(looked_up)
