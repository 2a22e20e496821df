"""Checks in a child process."""

import os
import signal
import warnings


def in_child(check):
    """Run `check()` in a child process; whether it returned True."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # there are threads: that is what is tested
        child = os.fork()
    if child == 0:
        well = False
        signal.alarm(20)  # so that a deadlock is a failure
        try:
            well = check()
        finally:
            os._exit(0 if well else 1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0
