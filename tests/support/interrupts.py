"""Ctrl-C, as the main thread gets it, a moment from now."""

import signal
import threading
from contextlib import contextmanager


@contextmanager
def interrupted(seconds=0.1):
    """Interrupt what runs within, by a real signal."""
    main = threading.main_thread().ident
    timer = threading.Timer(seconds, signal.pthread_kill, (main, signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGINT, before)
