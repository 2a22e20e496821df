"""Keys that are pressed on a terminal, one by one and without waiting for a line."""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Wait = Callable[[float], str]
"""Waits so many seconds at the most; what was pressed meanwhile, or nothing."""


@contextmanager
def pressed() -> Iterator[Wait]:
    """Read keys for as long as the block lasts; the terminal is then as it was. Without one, nothing is ever pressed."""
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
    return read.decode(errors="replace") or "q"  # its end: the terminal is gone
