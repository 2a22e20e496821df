"""Checks and programs in a forked child process."""

import atexit
import os
import runpy
import signal
import threading
import traceback
import warnings


def in_child(check, *, seconds=120):
    """Run `check()` in a child process; return whether it returned True."""
    return exit_code_of(check, seconds=seconds) == 0


def exit_code_of(check, *, seconds=120):
    """Run `check()` in a child process; return 0 if it returned True, 1 if not, or the negative signal."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # there are threads: that is what is tested
        child = os.fork()
    if child == 0:
        is_true = False
        signal.alarm(seconds)  # so that a deadlock is a failure
        try:
            is_true = check()
        except BaseException:  # noqa: BLE001 - printed with the output of the test
            traceback.print_exc()
        finally:
            os._exit(0 if is_true else 1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def runs(path):
    """Run the program `path` in its folder, with the modules imported here; return whether it ended without error."""

    def program():
        atexit._clear()
        os.chdir(path.parent)
        runpy.run_path(str(path), run_name="__main__")
        threading._shutdown()
        atexit._run_exitfuncs()
        return True

    return in_child(program, seconds=120)
