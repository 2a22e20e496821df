import fcntl
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from stormbreak.batch.store.lock import held, locked
from stormbreak.errors import ConfigurationError

HOLD = """
import sys, time
from pathlib import Path
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.lock import locked
with locked(BatchPaths.of(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_process(files):
    command = [sys.executable, "-c", HOLD, files.output]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_run_is_refused_until_the_first_is_killed(files):
    with another_process(files) as first:
        assert held(files)
        with pytest.raises(ConfigurationError) as raised, locked(files):
            pytest.fail("two runs on one output")
        assert str(raised.value) == f"another run is writing to {files.output}"
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert not held(files)
        with locked(files):
            assert held(files)
    assert not held(files)


def test_the_lock_outlives_the_replacing_of_output_and_the_run_file(files):
    with another_process(files):
        for path in (files.output, files.run):
            (path.parent / "new").write_text("x")
            (path.parent / "new").replace(path)
        assert held(files)


def test_looking_makes_no_file_and_takes_nothing(files):
    assert not held(files)
    assert not files.lock.exists()


def test_looking_does_not_disturb_a_run_that_begins(files):
    files.lock.touch()
    looking = os.open(files.lock, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    gone = threading.Timer(0.05, os.close, [looking])
    gone.start()
    with locked(files):
        gone.join()


def test_the_lock_file_is_never_written(files):
    files.lock.write_text("somebody's own")
    with locked(files):
        pass
    assert files.lock.read_text() == "somebody's own"


def test_a_run_that_does_not_begin_leaves_no_lock(files):
    for began in (False, True):
        if began:
            files.run.touch()
        with locked(files):
            assert files.lock.exists()
        assert files.lock.exists() is began


def test_who_waited_for_a_lock_that_was_removed_takes_a_new_one(files, monkeypatch):
    """Else two runs would hold a lock, each on a file of its own."""
    flock = fcntl.flock

    def late(fd, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        files.lock.unlink()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(files):
        assert held(files)
        with pytest.raises(ConfigurationError), locked(files):
            pytest.fail("two runs on one output")


def test_a_place_that_cannot_be_written(files):
    files.lock.mkdir()
    said = r"out\.jsonl: cannot write there: is a directory"
    with pytest.raises(ConfigurationError, match=said), locked(files):
        pass
