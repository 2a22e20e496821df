"""A named pipe without a writer in place of a batch file must not block the command."""

import os
from contextlib import suppress
from threading import Thread

import pytest

from stormbreak import file_reader
from stormbreak.batch.input.index import fingerprint_of
from stormbreak.batch.store.cost import read_cost
from stormbreak.batch.store.lock import held
from stormbreak.batch.store.output_line import count_lines, entries
from stormbreak.batch.store.run_file import check, read_run, record
from stormbreak.cost.price_lookup import PriceLookup
from stormbreak.errors import ConfigurationError


@pytest.fixture(autouse=True)
def short_pipe_patience(monkeypatch):
    monkeypatch.setattr(file_reader, "PIPE_PATIENCE", 0.01)


def ended(do, pipe):
    """Return the exceptions of `do`. If it hangs, a writer releases it."""
    raised = []

    def work():
        try:
            do()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            raised.append(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(30.0)
    hangs = thread.is_alive()
    if hangs:
        with suppress(OSError):
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        thread.join(30.0)
    assert not hangs
    return raised


def test_a_pipe_as_run_file_is_an_error(files):
    os.mkfifo(files.run)
    (error,) = ended(lambda: read_run(files), files.run)
    assert isinstance(error, ConfigurationError)
    assert "the pipe has no writer" in str(error)


def test_a_pipe_as_output_is_an_error_for_the_cost(files, make_rows):
    rows = make_rows("a")
    record(files, rows, {"model": "m"}, last=check(files, rows, {"model": "m"}), now=1.0)
    os.mkfifo(files.output)
    (error,) = ended(lambda: read_cost(files.output, PriceLookup(())), files.output)
    assert isinstance(error, ConfigurationError)
    assert "the pipe has no writer" in str(error)


def test_a_pipe_as_kept_input_is_an_error(files):
    os.mkfifo(files.input)
    (error,) = ended(lambda: fingerprint_of(files.input), files.input)
    assert isinstance(error, OSError)


@pytest.mark.parametrize("read", [count_lines, lambda path: list(entries(path))])
def test_a_pipe_as_output_is_an_error(files, read):
    os.mkfifo(files.output)
    (error,) = ended(lambda: read(files.output), files.output)
    assert isinstance(error, ConfigurationError)


def test_a_pipe_as_lock_file_does_not_block(files):
    os.mkfifo(files.lock)
    assert ended(lambda: held(files), files.lock) == []
