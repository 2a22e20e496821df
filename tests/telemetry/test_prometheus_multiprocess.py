"""Several processes behind one port, as gunicorn and uvicorn have them: one scrape tells of all that live."""

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
    """A worker that does what it is told (tests/support/gauging.py)."""

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
        """Whether a scrape of it comes to say so: others write what stands with them now and then."""
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


def test_each_tells_of_all(start):
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
        assert value(samples, "stormbreak_retry_budget") == pytest.approx(0.3)  # the poorer one's
        assert {label for _, has in samples for label, _ in has} <= {
            "target", "state", "le", "gate",
        }  # fmt: skip

    one.end()
    assert value(one.samples, "stormbreak_calls_total", verdict="ok") == 1
    assert two.sees(4, "stormbreak_attempts_in_flight")  # another one left the queue
    assert two.sees(2, "stormbreak_queue_length")


def test_of_cooldowns_the_longest_is_told(start):
    one, two = start(2)
    for worker, seconds in ((one, 8), (two, 4)):
        worker.call("large")
        worker.cool(seconds)

    assert two.sees(10.0, "stormbreak_cooldown_remaining_seconds")
    assert one.sees(10.0, "stormbreak_cooldown_remaining_seconds")


def test_one_that_died_has_nothing_standing_any_more_and_keeps_what_it_counted(start):
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


def test_one_that_had_no_call_yet_says_so_of_the_dead(start):
    """It may be the one that was started in place of another, which was killed."""
    one, two = start(2)
    one.call("large")
    assert two.sees(1, "stormbreak_attempts_in_flight")
    assert value(two.samples, "stormbreak_processes") == 2
    one.die()

    (three,) = start(1)
    assert value(three.samples, "stormbreak_attempts_in_flight") == 0
    assert value(three.samples, "stormbreak_processes") == 2


def test_files_that_are_not_named_by_processes_are_left_alone(start):
    """As those of uWSGI's workers, which have numbers of their own."""
    (one,), (two,) = start(1, "3999998"), start(1, "3999999")
    for worker in (one, two):
        worker.call("large")

    assert one.sees(2, "stormbreak_attempts_in_flight")
    assert two.sees(2, "stormbreak_attempts_in_flight")


def test_what_is_gone_weighs_nothing(start):
    """A value cannot be taken out of the files; the poorest budget must not be that of nobody."""
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


def test_a_fork_writes_for_itself(start):
    """As with gunicorn's --preload: the parent has calls, and then forks."""
    worker, other = start(2)
    worker.call("large")
    worker.call("old")
    before = worker.samples
    worker.fork()  # from here on the child answers, while the parent waits for it
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


def test_the_calls_of_a_tenant_stay_counted_when_a_process_ends(start):
    one, two = start(2)
    for worker, calls in ((one, 3), (two, 7)):
        worker.limit("acme", 600)
        use(worker, calls)
    assert one.sees(10, CALLS, tenant="acme")
    two.die()
    assert value(one.samples, CALLS) == 10

    one.fork()  # what the parent has counted is the parent's
    use(one, 2)
    assert value(one.samples, CALLS) == 12
    one.detach()
    assert value(one.samples, CALLS) == 12


def test_a_limit_of_a_tenant_that_was_removed_is_not_0(start):
    one, two = start(2)
    for worker in (one, two):
        worker.limit("acme", 600)
        use(worker, 1)
    assert two.sees(2, CALLS)
    one.limit("acme", 0)
    one.scrape()  # it writes
    assert by(two.samples, "stormbreak_tenant_rpm", "tenant") == {"acme": 600}
    two.limit("acme", 0)
    assert by(two.samples, "stormbreak_tenant_rpm", "tenant") == {}
    assert value(two.samples, CALLS) == 2


def complaint(code, **around):
    run = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env={**os.environ, **around},
        capture_output=True,
        text=True,
    )
    return run.stderr.splitlines()[-1]


@table_test(
    ("before", "around", "complained"),
    [
        ("", {FOLDER: "/no/such"}, "PROMETHEUS_MULTIPROC_DIR must name a folder that exists"),
        (
            f"import os, prometheus_client; os.environ['{FOLDER}'] = '/tmp'",
            {},
            "PROMETHEUS_MULTIPROC_DIR was set after prometheus_client was imported: set it before the program starts",
        ),
    ],
)
def test_half_a_mode_is_refused(before, around, complained):
    said = complaint(f"{before}\nfrom stormbreak.telemetry import Metrics\nMetrics()", **around)

    assert said == f"stormbreak.errors.ConfigurationError: {complained}"
