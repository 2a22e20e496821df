"""Ctrl-C in the main thread."""

import signal
import sys
import threading
from contextlib import contextmanager


def main_waits():
    """Whether the main thread waits for a lock or for a time."""
    frame = sys._current_frames()[threading.main_thread().ident]
    return frame.f_code.co_filename == threading.__file__


@contextmanager
def interrupted(once=main_waits):
    """Interrupt the body with a real signal, shortly after `once()` is true for the first time."""
    main = threading.main_thread().ident
    over = threading.Event()

    def interrupt():
        while not once():
            if over.wait(0.005):
                return
        if not over.wait(0.05):
            signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGINT, before)
