"""Checks and programs in a child process that is forked from this one."""

import atexit
import os
import runpy
import signal
import threading
import traceback
import warnings


def in_child(check, *, seconds=20):
    """Run `check()` in a child process; whether it returned True."""
    return exit_code_of(check, seconds=seconds) == 0


def exit_code_of(check, *, seconds=20):
    """Run `check()` in a child process: 0 if it returned True, 1 if not, and less for a signal that ended it."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # there are threads: that is what is tested
        child = os.fork()
    if child == 0:
        well = False
        signal.alarm(seconds)  # so that a deadlock is a failure
        try:
            well = check()
        except BaseException:  # noqa: BLE001 - it is seen where the output of the test is shown
            traceback.print_exc()
        finally:
            os._exit(0 if well else 1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def runs(path):
    """Run a program in its folder, with all that is imported here; whether it ended well within two minutes."""

    def program():
        atexit._clear()
        os.chdir(path.parent)
        runpy.run_path(str(path), run_name="__main__")
        threading._shutdown()
        atexit._run_exitfuncs()
        return True

    return in_child(program, seconds=120)
