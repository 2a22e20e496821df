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


def test_a_second_run_is_rejected_until_the_first_is_killed(files):
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


def test_the_lock_survives_replacement_of_output_and_run_file(files):
    with another_process(files):
        for path in (files.output, files.run):
            (path.parent / "new").write_text("x")
            (path.parent / "new").replace(path)
        assert held(files)


def test_held_creates_no_lock_file(files):
    assert not held(files)
    assert not files.lock.exists()


def test_held_does_not_block_a_run_that_begins(files):
    files.lock.touch()
    shared = os.open(files.lock, os.O_RDONLY)
    fcntl.flock(shared, fcntl.LOCK_SH)
    gone = threading.Timer(0.05, os.close, [shared])
    gone.start()
    with locked(files):
        gone.join()


def test_locked_never_writes_the_lock_file(files):
    files.lock.write_text("somebody's own")
    with locked(files):
        pass
    assert files.lock.read_text() == "somebody's own"


def test_a_run_that_does_not_begin_removes_its_lock_file(files):
    for began in (False, True):
        if began:
            files.run.touch()
        with locked(files):
            assert files.lock.exists()
        assert files.lock.exists() is began


def test_a_run_that_waited_for_a_removed_lock_file_creates_a_new_one(files, monkeypatch):
    """Otherwise two runs would each hold a lock on a different file."""
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


def test_a_lock_file_that_cannot_be_opened_is_an_error(files):
    files.lock.mkdir()
    message = r"out\.jsonl: cannot write there: is a directory"
    with pytest.raises(ConfigurationError, match=message), locked(files):
        pass
