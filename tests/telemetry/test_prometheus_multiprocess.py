"""Several processes behind one port, as with gunicorn and uvicorn: one scrape covers all live processes."""

import ast
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from fork_server import PROGRAM, ForkedPopen
from scrapes import by, read, value
from table_test import table_test

from stormbreak.telemetry.prometheus_multiprocess import FOLDER

SUPPORT = Path(__file__).parents[1] / "support"


class Process:
    """A worker that executes commands (tests/support/gauging.py)."""

    def __init__(self, started):
        self._started = started
        assert started.stdout.readline() == "ready\n"

    def __getattr__(self, name):
        return lambda *words: self._do(" ".join([name, *map(str, words)]))

    def _do(self, line):
        print(line, file=self._started.stdin, flush=True)
        return ast.literal_eval(self._started.stdout.readline())

    @property
    def samples(self):
        return read(self.scrape())

    def sees(self, expected, name, **labels):
        """Wait until a scrape shows the value: other processes write their gauges periodically."""
        end = time.monotonic() + 20.0
        while (found := value(self.samples, name, **labels)) != expected:
            assert time.monotonic() < end, f"{name} is {found}, not {expected}"
            time.sleep(0.02)
        return True

    def die(self):
        self._started.kill()
        self._started.wait()


@pytest.fixture
def start(tmp_path):
    around = {**os.environ, FOLDER: str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = []

    def begin(count, *words):
        script = [*PROGRAM[:3], SUPPORT / "gauging.py", *words]
        begun = [
            ForkedPopen(script, env=around, start_new_session=True, **pipes) for _ in range(count)
        ]
        running.extend(begun)
        return [Process(one) for one in begun]

    yield begin
    for one in running:
        with suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
        one.communicate()


def test_each_process_exports_all_processes(start):
    one, two = start(2)
    for worker, calls in ((one, 3), (two, 4)):
        for _ in range(calls):
            worker.call("large")

    for worker in (one, two):
        assert worker.sees(4, "stormbreak_attempts_in_flight")
        assert worker.sees(3, "stormbreak_queue_length")
        samples = worker.samples
        assert value(samples, "stormbreak_concurrency_limit") == 4
        assert by(samples, "stormbreak_circuits", "state")["closed"] == 2
        assert value(samples, "stormbreak_attempts_sent_total") == 4
        assert value(samples, "stormbreak_retry_budget") == pytest.approx(0.3)  # the lower one
        assert {label for _, has in samples for label, _ in has} <= {
            "target", "state", "le", "gate",
        }  # fmt: skip

    one.end()
    assert value(one.samples, "stormbreak_calls_total", verdict="ok") == 1
    assert two.sees(4, "stormbreak_attempts_in_flight")  # another call left the queue
    assert two.sees(2, "stormbreak_queue_length")


def test_processes_export_the_longest_cooldown(start):
    one, two = start(2)
    for worker, seconds in ((one, 8), (two, 4)):
        worker.call("large")
        worker.cool(seconds)

    assert two.sees(10.0, "stormbreak_cooldown_remaining_seconds")
    assert one.sees(10.0, "stormbreak_cooldown_remaining_seconds")


def test_a_killed_process_has_no_gauges_and_keeps_its_counters(start):
    one, two = start(2)
    one.call("large")
    two.call("large")
    assert one.sees(2, "stormbreak_attempts_in_flight")
    two.die()
    samples = one.samples

    assert value(samples, "stormbreak_attempts_in_flight") == 1
    assert value(samples, "stormbreak_concurrency_limit") == 2
    assert value(samples, "stormbreak_attempts_sent_total") == 2
    assert value(samples, "stormbreak_processes") == 1


def test_a_process_without_calls_drops_the_gauges_of_killed_ones(start):
    """It may replace a process that was killed."""
    one, two = start(2)
    one.call("large")
    assert two.sees(1, "stormbreak_attempts_in_flight")
    assert value(two.samples, "stormbreak_processes") == 2
    one.die()

    (three,) = start(1)
    assert value(three.samples, "stormbreak_attempts_in_flight") == 0
    assert value(three.samples, "stormbreak_processes") == 2


def test_files_with_other_numbers_than_process_ids_are_kept(start):
    """uWSGI numbers its workers itself."""
    (one,), (two,) = start(1, "3999998"), start(1, "3999999")
    for worker in (one, two):
        worker.call("large")

    assert one.sees(2, "stormbreak_attempts_in_flight")
    assert two.sees(2, "stormbreak_attempts_in_flight")


def test_a_detached_process_does_not_affect_the_gauges(start):
    """A value cannot be removed from the files, so a detached process must not have the lowest budget."""
    one, two = start(2)
    one.call("large")
    two.call("large")
    two.call("small")
    assert one.sees(3, "stormbreak_attempts_in_flight")
    two.detach()

    assert one.sees(1, "stormbreak_attempts_in_flight")
    samples = two.samples
    assert value(samples, "stormbreak_retry_budget", target="acme/large") == pytest.approx(0.1)
    assert value(samples, "stormbreak_retry_budget", target="acme/small") == float("inf")
    assert value(samples, "stormbreak_concurrency_limit") == 2


def test_a_forked_process_writes_its_own_gauges(start):
    """With --preload of gunicorn, the parent has calls and then forks."""
    worker, other = start(2)
    worker.call("large")
    worker.call("old")
    before = worker.samples
    worker.fork()  # from now on the child answers, while the parent waits for it
    worker.call("large")
    samples = worker.samples

    assert value(before, "stormbreak_attempts_in_flight") == 2
    assert value(samples, "stormbreak_attempts_in_flight", target="acme/large") == 2
    assert value(samples, "stormbreak_attempts_in_flight", target="acme/old") == 1
    assert value(samples, "stormbreak_attempts_sent_total", target="acme/large") == 2
    assert value(samples, "stormbreak_retry_budget", target="acme/old") == pytest.approx(0.2)
    worker.call("large")
    assert other.sees(3, "stormbreak_attempts_in_flight", target="acme/large")


CALLS = "stormbreak_tenant_calls_sent_total"


def use(worker, calls):
    for _ in range(calls):
        worker.call("large", "acme")
        worker.end()


def test_the_calls_of_a_tenant_stay_counted_after_a_kill(start):
    one, two = start(2)
    for worker, calls in ((one, 3), (two, 7)):
        worker.limit("acme", 600)
        use(worker, calls)
    assert one.sees(10, CALLS, tenant="acme")
    two.die()
    assert value(one.samples, CALLS) == 10

    one.fork()  # the child does not repeat the counts of the parent
    use(one, 2)
    assert value(one.samples, CALLS) == 12
    one.detach()
    assert value(one.samples, CALLS) == 12


def test_a_removed_tenant_limit_is_not_exported_as_zero(start):
    one, two = start(2)
    for worker in (one, two):
        worker.limit("acme", 600)
        use(worker, 1)
    assert two.sees(2, CALLS)
    one.limit("acme", 0)
    one.scrape()  # a scrape writes the gauges
    assert by(two.samples, "stormbreak_tenant_rpm", "tenant") == {"acme": 600}
    two.limit("acme", 0)
    assert by(two.samples, "stormbreak_tenant_rpm", "tenant") == {}
    assert value(two.samples, CALLS) == 2


def last_line_of_stderr(code, **around):
    run = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env={**os.environ, **around},
        capture_output=True,
        text=True,
    )
    return run.stderr.splitlines()[-1]


@table_test(
    ("before", "around", "message"),
    [
        ("", {FOLDER: "/no/such"}, "PROMETHEUS_MULTIPROC_DIR must name a folder that exists"),
        (
            f"import os, prometheus_client; os.environ['{FOLDER}'] = '/tmp'",
            {},
            "PROMETHEUS_MULTIPROC_DIR was set after prometheus_client was imported: set it before the program starts",
        ),
    ],
)
def test_an_incomplete_multiprocess_setup_is_rejected(before, around, message):
    line = last_line_of_stderr(
        f"{before}\nfrom stormbreak.telemetry import Metrics\nMetrics()", **around
    )

    assert line == f"stormbreak.errors.ConfigurationError: {message}"
