"""The live state: counts of events, gauges of engines, bounded memory, and use from any thread."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from happenings import one_of_each
from msgspec import to_builtins
from stage import OTHER, TARGET, Stage, policy, retry_in
from table_test import table_test

from stormbreak.core.breaker import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.drivers.listeners import Attached
from stormbreak.events import CallRejected, CircuitChanged, RetryPlanned, Returned, Sent
from stormbreak.telemetry.labels import MAX_TARGETS
from stormbreak.telemetry.live_state import GROUPED_WITHIN, MAX_DECISIONS, LiveState
from stormbreak.telemetry.state import FORMAT, SECONDS, decoded, encoded
from stormbreak.types import Target, Verdict


@pytest.fixture
def clock():
    return [1000.0]


@pytest.fixture
def watch(clock):
    return LiveState(clock=lambda: clock[0])


def returned(at, verdict=Verdict.OK, target=TARGET):
    return Returned(at, 1, target, 1, verdict, None, None, 0.1)


def retry(at, verdict=Verdict.OVERLOADED, target=TARGET, until=0.5):
    return RetryPlanned(at, 1, target, 1, at + until, False, False, verdict)


def only(state):
    (target,) = state.targets
    return target


# ------------------------------------------------------------ counts


def test_every_event_is_counted(watch):
    for event in one_of_each():
        watch(event)
    counts = to_builtins(watch.state())["counts"]
    assert counts == {
        "calls": 1, "answered": 0, "cancelled": 1, "attempts": 1, "retries": 1, "retries_refused": 1, "rejected": 1,
        "hedges": 1, "fallbacks": 1, "circuits_opened": 1, "cooldowns": 1,
    }  # fmt: skip


def test_a_state_counts_attempts_per_complete_second(watch, clock):
    for second, count in ((1000, 3), (1001, 5), (1003, 1)):
        for _ in range(count):
            watch(returned(second + 0.5))
        watch(returned(second + 0.6, Verdict.TIMEOUT))
    clock[0] = 1003.9
    target = only(watch.state())
    assert target.ok[-4:] == (0, 3, 5, 0)  # the current second is not complete
    assert target.not_ok[-4:] == (0, 1, 1, 0)
    assert len(target.ok) == len(target.not_ok) == SECONDS
    assert target.verdicts == {"ok": 9, "timeout": 3}
    clock[0] += 1
    assert only(watch.state()).ok[-4:] == (3, 5, 0, 1)


def test_a_state_forgets_a_second_after_a_minute(watch, clock):
    watch(returned(1000.0))
    clock[0] = 1000.0 + SECONDS
    assert only(watch.state()).ok[0] == 1
    clock[0] += 1
    target = only(watch.state())
    assert (sum(target.ok), target.verdicts) == (0, {})


def test_a_late_event_is_counted(watch, clock):
    watch(returned(1001.0))
    watch(returned(1000.9))
    clock[0] = 1002.0
    assert sum(only(watch.state()).ok) == 2


def test_the_memory_of_a_state_is_bounded_in_a_long_storm(watch, clock):
    for n in range(20_000):
        at = 1000.0 + n / 10
        watch(returned(at, list(Verdict)[n % 16], Target("acme", f"m{n % 300}")))
        watch(retry(at, list(Verdict)[n % 16], Target("acme", f"m{n % 300}")))
    clock[0] = 3000.0
    state = watch.state()
    assert len(state.targets) == MAX_TARGETS
    assert len(state.decisions) <= MAX_DECISIONS
    assert len(watch._recent._growing) <= MAX_DECISIONS
    assert len(encoded(state)) < 200_000
    assert sum(sum(t.verdicts.values()) for t in state.targets) == 600  # ten each second


def test_targets_above_the_maximum_are_others_until_space_is_free(watch, clock):
    for n in range(MAX_TARGETS + 5):
        watch(returned(1000.0, target=Target("acme", f"m{n}")))
    names = Counter(target.target for target in watch.state().targets)
    assert names["others"] == 1
    assert names["acme/m104"] == 0
    watch(returned(1100.0, target=Target("acme", "new")))
    assert [target.target for target in watch.state().targets] == ["acme/new"]


# ------------------------------------------------------------ decisions


def test_equal_decisions_within_the_interval_are_grouped(watch, clock):
    for n in range(100):
        watch(retry(1000.0 + n / 50, until=n))
    watch(retry(1002.0, Verdict.TIMEOUT))
    watch(retry(1002.0, target=OTHER))
    clock[0] = 1003.0
    decisions = watch.state().decisions
    assert sorted(decision.times for decision in decisions) == [1, 1, 100]
    of_many = next(decision for decision in decisions if decision.times == 100)
    assert of_many.name == "retry.scheduled"
    assert "again after 99.0 s" in of_many.text  # the text of the last one
    assert of_many.ago == 1.0


def test_only_an_opening_circuit_counts_as_opened(watch):
    for before, after in (("closed", "open"), ("open", "half_open"), ("half_open", "closed")):
        watch(CircuitChanged(1000.0, TARGET, before, after, None))
    assert watch.state().counts.circuits_opened == 1


def test_equal_decisions_after_the_interval_are_a_new_entry(watch, clock):
    watch(retry(1000.0))
    watch(retry(1000.0 + GROUPED_WITHIN))
    watch(retry(1000.1 + 2 * GROUPED_WITHIN))
    clock[0] = 1010.0
    assert [decision.times for decision in watch.state().decisions] == [1, 2]


def test_many_retries_do_not_displace_a_circuit_change(watch, clock):
    watch(CircuitChanged(1000.0, TARGET, "closed", "open", 1005.0))
    for n in range(10_000):
        watch(retry(1000.0 + n / 1000))
        watch(CallRejected(1000.0 + n / 1000, n, TARGET, "breaker", "the circuit is open", None))
    clock[0] = 1010.0
    assert {it.name: it.times for it in watch.state().decisions} == {
        "call.rejected": 10_000,
        "retry.scheduled": 10_000,
        "circuit.changed": 1,
    }


def test_sent_and_returned_events_are_no_decisions(watch):
    watch(Sent(1000.0, 1, TARGET, 1))
    watch(returned(1000.0))
    assert watch.state().decisions == ()


# ------------------------------------------------------------ gauges of engines


class Stepped(Stage):
    """A stage whose engine has snapshots, like an engine with a driver."""

    def __init__(self, watch, *args, **options):
        super().__init__(*args, now=1000.0, **options)
        self.engine.weak_snapshot = lambda: lambda **_: self.engine.snapshot(self.now)
        Attached(self.engine, watch)


def test_a_target_shows_circuit_limit_queue_and_cooldown(watch):
    stage = Stepped(watch, policy(limit=FixedLimit(max_in_flight=2), breaker=BreakerPolicy()))
    runs = [stage.start() for _ in range(4)]
    runs[0].step(retry_in(9.0))
    target = only(watch.state())
    assert (target.target, target.circuit, target.limit) == ("acme/large", "closed", 2)
    assert (target.in_flight, target.queued) == (1, 2)
    assert target.cooldown > 8
    assert target.verdicts == {"throttled": 1}


def test_engines_with_the_same_target_are_summed(watch):
    stages = [Stepped(watch, policy(limit=FixedLimit(max_in_flight=2))) for _ in range(2)]
    for stage in stages:
        stage.start()
        stage.start(target=OTHER)
    targets = {target.target: target for target in watch.state().targets}
    assert set(targets) == {"acme/large", "acme/small"}
    assert (targets["acme/large"].in_flight, targets["acme/large"].limit) == (2, 4)
    assert targets["acme/small"].in_flight == 2
    assert targets["acme/large"].circuit is None


def test_engines_show_the_longest_cooldown_and_the_lowest_budget(watch):
    stages = [Stepped(watch, Policy(limit=FixedLimit(max_in_flight=9))) for _ in range(2)]
    for stage, asked in zip(stages, (8.0, 4.0), strict=True):
        runs = [stage.start() for _ in range(int(asked))]
        runs[0].step(retry_in(asked))
    target_states = [stage.engine.target_state(TARGET).snapshot(1000.0) for stage in stages]
    target = only(watch.state())
    assert target_states[0]["cooldown"] > target_states[1]["cooldown"] > 0
    assert target_states[0]["budget"] != target_states[1]["budget"]
    assert target.cooldown == round(target_states[0]["cooldown"], 3)
    assert target.budget == round(min(target_state["budget"] for target_state in target_states), 3)


def test_engines_show_the_reason_of_the_longest_queue(watch):
    stages = [Stepped(watch, policy(limit=FixedLimit(max_in_flight=9))) for _ in range(3)]
    for stage, asked, waiting in zip(stages[:2], (8.0, 4.0), (1, 3), strict=True):
        stage.start().step(retry_in(asked))
        for _ in range(waiting):
            stage.start()
    stages[2].start()

    assert only(watch.state()).slow == "waiting: provider asked for 4 s, next calls in 4 s"


def test_an_engine_without_a_driver_shows_no_target(watch):
    Attached(Stage().engine, watch)
    assert watch.state().targets == ()


def test_a_live_state_does_not_keep_engines_alive(watch):
    Stepped(watch)
    assert watch.state().targets == ()


# ------------------------------------------------------------ as JSON


def test_the_page_equals_the_state_as_json(watch):
    for event in one_of_each():
        watch(event)
    watch(returned(1000.0))
    kind, body = watch.page()
    assert kind == "application/json"
    assert json.loads(body) == json.loads(json.dumps(to_builtins(watch.state())))
    assert decoded(body) == watch.state()
    assert to_builtins(watch.state())["format"] == FORMAT
    assert to_builtins(watch.state())["pid"] == os.getpid()


@table_test(
    ("body", "message"),
    [
        (b"", "the response is not a stormbreak state"),
        (b"<html>", "the response is not a stormbreak state"),
        (b"[1]", "the response is not a stormbreak state"),
        (b'{"format": "secret"}', "the response is not a stormbreak state"),
        (b'{"format": 1}', "the response is not a stormbreak state"),
        (b"[" * 100_000, "the response is not a stormbreak state"),
        (b'{"format": 2}', r"another version of stormbreak answered \(format 2, not 1\)"),
    ],
)
def test_a_body_that_is_no_state_is_an_error(body, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        decoded(body)


def test_a_state_with_unknown_keys_can_be_read(watch):
    more = json.loads(encoded(watch.state())) | {"spend": {"usd": 3}}
    assert decoded(json.dumps(more).encode()) == watch.state()


# ------------------------------------------------------------ threads and forks


def test_events_of_several_threads_are_all_counted(watch, clock):
    def storm():
        for _ in range(2_000):
            watch(Sent(1000.0, 1, TARGET, 1))
            watch(returned(1000.0))
            watch(retry(1000.0))

    threads = [threading.Thread(target=storm) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        watch.state()
    for thread in threads:
        thread.join()
    clock[0] = 1001.0
    state = watch.state()
    assert state.counts.attempts == state.counts.retries == 8_000
    assert only(state).verdicts == {"ok": 8_000}
    assert state.decisions[0].times == 8_000


def test_an_event_during_an_event_is_counted(watch):
    """The garbage collector may close a call at any time, on the thread that holds the lock."""
    with watch._lock:
        watch(Sent(1000.0, 1, TARGET, 1))
    assert watch.state().counts.attempts == 1


FORKED = """
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
from happenings import one_of_each
from stormbreak.telemetry.labels import MAX_TARGETS
from stormbreak.telemetry.live_state import LiveState
watch = LiveState()
for event in one_of_each():
    watch(event)
held, go = threading.Event(), threading.Event()
def hold():
    with watch._lock:
        held.set()
        go.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if not child:
    before = watch.state().counts.attempts
    watch(one_of_each()[2])
    os._exit(10 * before + watch.state().counts.attempts)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
go.set()
assert watch.state().counts.attempts == 1
"""


def test_a_forked_child_starts_empty_when_the_lock_is_held():
    support = Path(__file__).parents[1] / "support"
    environ = {
        **os.environ,
        "PYTHONPATH": f"{support}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    command = [sys.executable, "-c", FORKED]
    subprocess.run(command, env=environ, timeout=180, check=True)
