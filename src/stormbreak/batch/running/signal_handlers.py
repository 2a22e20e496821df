"""Call the run on Ctrl-C, SIGTERM and SIGHUP. The run decides what they do (`interrupt` and `_hang_up` of `Runner`).

While INPUT is read, or a table is made, no run handles them: the command line ends with code 130 (`cli/batch/run.py`).
The signals of the gateway are in `gateway/lifecycle` and, for its workers, `gateway/worker`.
"""

import signal
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def heard(
    interrupt: Callable[[], None],
    hang_up: Callable[[], None],
    *,
    loop: AbstractEventLoop | None = None,
) -> Iterator[None]:
    """Call these on signals, on `loop` if there is one. Works only in the main thread: no other gets signals."""
    handlers: dict[signal.Signals, Callable[[], None]] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = dict.fromkeys(_INTERRUPTS, interrupt)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            handlers[signal.SIGHUP] = hang_up
    before = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        if loop is None:
            signal.signal(number, lambda *_, handler=handler: handler())
        else:
            loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number, handled_by in before.items():
            if loop is not None:
                loop.remove_signal_handler(number)  # which keeps the default handler
            signal.signal(number, handled_by)


def ignore() -> None:
    """Ignore signals in this process: a terminal sends them to a parent and its workers."""
    for number in (*_INTERRUPTS, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
