"""Log lines of decisions: bounded in a storm, and absent unless attached."""

import logging
import threading

import pytest
from forking import in_child
from happenings import one_of_each
from stage import INVALID, OTHER, TARGET, Stage, policy

from stormbreak.core.policy import Policy
from stormbreak.events import CallRejected, CircuitChanged, RetryPlanned, RetryRefused, Sent
from stormbreak.telemetry import Logs, log_to
from stormbreak.telemetry.event_text import NAMES
from stormbreak.telemetry.logs import LEVELS
from stormbreak.types import Target, Verdict


@pytest.fixture
def lines(caplog, monkeypatch):
    """Records that are logged at INFO or above."""
    caplog.set_level(logging.INFO, "stormbreak")
    records = []
    monkeypatch.setattr(caplog.handler, "emit", records.append)
    return records


def rejected(at, *, target=TARGET, policy="breaker"):
    return CallRejected(at, 1, target, policy, "the circuit is open", at + 4.0)


def printed(lines):
    return [(record.levelname, record.name, record.getMessage()) for record in lines]


def test_no_line_is_logged_unless_logs_are_attached(lines):
    stage = Stage(Policy()).listen()
    stage.fail_until_open()

    assert stage.events
    assert not lines


def test_only_decisions_have_log_lines(caplog):
    caplog.set_level(logging.DEBUG, "stormbreak")
    logs = Logs()
    for event in one_of_each():
        logs(event)

    assert printed(caplog.records) == [
        ("INFO", "stormbreak.hedge", "attempt 2 at acme/large: beside the one before, unanswered after 1.5 s"),
        ("DEBUG", "stormbreak.hedge", "attempt 1 at acme/large: slow, but not hedged: load"),
        ("INFO", "stormbreak.retry", "attempt 1 at acme/large: overloaded, again after 2.5 s, paid, may have been processed and billed"),
        ("WARNING", "stormbreak.retry", "attempt 1 at acme/large: overloaded, no retry: budget"),
        ("INFO", "stormbreak.fallback", "fell back from acme/large to acme/small: overloaded"),
        ("WARNING", "stormbreak.fallback", "no fallback from acme/large to cache: nothing found"),
        ("WARNING", "stormbreak.call", "rejected by breaker at acme/large: the circuit is open; come back in 4.0 s"),
        ("WARNING", "stormbreak.circuit", "circuit of acme/large: closed to open for 5.0 s"),
        ("INFO", "stormbreak.cooldown", "cooldown of acme/large: no calls for 12.0 s"),
        ("WARNING", "stormbreak.spend", "spending, last at acme/large: 80 % of 50 USD; resets in 60 s"),
        ("INFO", "stormbreak.shadow", "shadow of acme/large: breaker would open for 5.0 s"),
    ]  # fmt: skip


def test_routine_decisions_are_logged_at_info(lines):
    logs = Logs()
    logs(RetryRefused(3.0, 1, TARGET, 1, "verdict", Verdict.INVALID))
    logs(CircuitChanged(3.0, TARGET, "half_open", "closed", None))

    assert [record.levelname for record in lines] == ["INFO", "INFO"]


def test_a_record_has_structured_fields(lines):
    logs = Logs()
    logs(RetryPlanned(3.0, 7, TARGET, 2, 5.5, False, False, Verdict.OVERLOADED))
    fields = {
        name: value for name, value in vars(lines[0]).items() if name.startswith("stormbreak_")
    }

    assert fields == {
        "stormbreak_event": "retry.scheduled",
        "stormbreak_target": "acme/large",
        "stormbreak_call": 7,
        "stormbreak_attempt": 2,
        "stormbreak_verdict": "overloaded",
        "stormbreak_free": False,
        "stormbreak_seconds": 2.5,
    }


def test_equal_lines_are_suppressed_within_a_second(lines):
    logs = Logs()
    for step in range(10_000):
        logs(rejected(100.0 + step / 5000.0))  # two seconds of it
    logs.flush()

    assert [record.getMessage() for record in lines] == [
        "rejected by breaker at acme/large: the circuit is open; come back in 4.0 s",
        "rejected by breaker at acme/large: the circuit is open; come back in 4.0 s (the last of 4999 suppressed lines)",
        "rejected by breaker at acme/large: the circuit is open; come back in 4.0 s",
        "rejected by breaker at acme/large: the circuit is open; come back in 4.0 s (the last of 4999 suppressed lines)",
    ]
    assert [getattr(record, "stormbreak_suppressed", 0) for record in lines] == [0, 4999, 0, 4999]


def test_the_next_event_reports_the_suppressed_lines(lines):
    logs = Logs()
    for step in range(3):
        logs(rejected(100.0 + step / 10))
    logs(Sent(100.9, 2, TARGET, 1))
    assert len(lines) == 1
    logs(Sent(101.0, 2, TARGET, 1))

    assert [getattr(record, "stormbreak_suppressed", 0) for record in lines] == [0, 2]
    logs(Sent(200.0, 3, TARGET, 1))
    logs.flush()
    assert len(lines) == 2


def test_suppression_is_per_event_and_target(lines):
    logs = Logs()
    for target in (TARGET, OTHER, TARGET, OTHER):
        logs(rejected(100.0, target=target))
        logs(RetryRefused(100.0, 1, target, 1, "budget", Verdict.TIMEOUT))

    assert len(lines) == 4


def test_circuit_changes_are_never_suppressed(lines):
    logs = Logs()
    for after in ("open", "half_open", "open", "half_open", "closed"):
        logs(CircuitChanged(100.0, TARGET, "", after, None))

    assert len(lines) == 5


def test_targets_above_the_maximum_share_their_lines(lines):
    logs = Logs(max_targets=3)
    for number in range(1000):
        logs(rejected(100.0, target=Target("acme", f"made-up-{number}")))

    assert len(lines) == 4
    assert len(logs._bursts) == 4


def test_every_zero_disables_suppression(lines):
    logs = Logs(every=0)
    for _ in range(10):
        logs(rejected(100.0))

    assert len(lines) == 10


def test_a_disabled_level_formats_no_text(caplog, monkeypatch):
    monkeypatch.setattr("stormbreak.telemetry.logs.describe", None)  # calling it would fail
    caplog.set_level(logging.ERROR, "stormbreak")
    logs = Logs()
    for event in one_of_each():
        logs(event)
    logs.flush()

    assert not caplog.records
    assert not logs._bursts


def test_a_name_with_a_newline_stays_on_one_line(lines):
    logs = Logs()
    logs(rejected(100.0, target=Target("acme", "x\nERROR root all is lost")))

    assert "\n" not in lines[0].getMessage()
    assert "\n" not in lines[0].stormbreak_target


def test_log_to_attaches_logs_to_an_engine(lines):
    stage = Stage(policy())
    (logs,) = log_to(stage.engine, every=0).listeners

    assert stage.engine.listeners == [logs]
    stage.start().step(INVALID)
    assert [record.stormbreak_event for record in lines] == ["retry.refused"]


def test_every_name_with_a_level_is_an_event_name():
    assert set(LEVELS) <= set(NAMES.values())


def test_a_forked_child_logs_when_the_lock_is_held(lines):
    logs = Logs()
    logs(rejected(100.0))

    def check():
        logs(rejected(100.1))
        return len(lines) == 2

    held, over = threading.Event(), threading.Event()

    def hold():
        with logs._lock:
            held.set()
            over.wait(20.0)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(20.0)
    assert in_child(check)
    over.set()
    holder.join()
    assert len(lines) == 1


def test_threads_lose_and_repeat_no_line(lines):
    logs = Logs()
    threads = [
        threading.Thread(target=lambda: [logs(rejected(100.0)) for _ in range(1000)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logs.flush()

    assert [getattr(record, "stormbreak_suppressed", 0) for record in lines] == [0, 7999]


def test_an_event_on_the_thread_that_holds_the_lock_does_not_block(lines):
    """The garbage collector may end a stream on the thread that holds the lock."""
    logs = Logs()
    with logs._lock:
        logs(rejected(100.0))
    logs.flush()

    assert len(lines) == 1
