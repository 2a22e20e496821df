"""The watch: what it keeps of events and asks of engines, how little that is, and that it stands on any thread."""

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
from stage import OTHER, TARGET, Stage, policy, told
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


def test_every_event_is_heard_and_counted(watch):
    for event in one_of_each():
        watch(event)
    counts = to_builtins(watch.state())["counts"]
    assert counts == {
        "calls": 1, "answered": 0, "cancelled": 1, "attempts": 1, "retries": 1, "retries_refused": 1, "rejected": 1,
        "hedges": 1, "fallbacks": 1, "circuits_opened": 1, "cooldowns": 1,
    }  # fmt: skip


def test_the_seconds_that_are_over_are_told_one_by_one(watch, clock):
    for second, count in ((1000, 3), (1001, 5), (1003, 1)):
        for _ in range(count):
            watch(returned(second + 0.5))
        watch(returned(second + 0.6, Verdict.TIMEOUT))
    clock[0] = 1003.9
    target = only(watch.state())
    assert target.ok[-4:] == (0, 3, 5, 0)  # the present second is not over
    assert target.not_ok[-4:] == (0, 1, 1, 0)
    assert len(target.ok) == len(target.not_ok) == SECONDS
    assert target.verdicts == {"ok": 9, "timeout": 3}
    clock[0] += 1
    assert only(watch.state()).ok[-4:] == (3, 5, 0, 1)


def test_after_a_minute_a_second_is_forgotten(watch, clock):
    watch(returned(1000.0))
    clock[0] = 1000.0 + SECONDS
    assert only(watch.state()).ok[0] == 1
    clock[0] += 1
    target = only(watch.state())
    assert (sum(target.ok), target.verdicts) == (0, {})


def test_what_comes_late_is_counted_all_the_same(watch, clock):
    watch(returned(1001.0))
    watch(returned(1000.9))
    clock[0] = 1002.0
    assert sum(only(watch.state()).ok) == 2


def test_it_keeps_little_of_a_long_storm(watch, clock):
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


def test_targets_beyond_the_bound_are_others_until_there_is_room(watch, clock):
    for n in range(MAX_TARGETS + 5):
        watch(returned(1000.0, target=Target("acme", f"m{n}")))
    names = Counter(target.target for target in watch.state().targets)
    assert names["others"] == 1
    assert names["acme/m104"] == 0
    watch(returned(1100.0, target=Target("acme", "new")))
    assert [target.target for target in watch.state().targets] == ["acme/new"]


# ------------------------------------------------------------ decisions


def test_alike_and_close_together_they_are_one(watch, clock):
    for n in range(100):
        watch(retry(1000.0 + n / 50, until=n))
    watch(retry(1002.0, Verdict.TIMEOUT))
    watch(retry(1002.0, target=OTHER))
    clock[0] = 1003.0
    decisions = watch.state().decisions
    assert sorted(decision.times for decision in decisions) == [1, 1, 100]
    of_many = next(decision for decision in decisions if decision.times == 100)
    assert of_many.name == "retry.scheduled"
    assert "again after 99.0 s" in of_many.text  # those of the last
    assert of_many.ago == 1.0


def test_a_circuit_that_closes_again_is_no_opening(watch):
    for before, after in (("closed", "open"), ("open", "half_open"), ("half_open", "closed")):
        watch(CircuitChanged(1000.0, TARGET, before, after, None))
    assert watch.state().counts.circuits_opened == 1


def test_later_they_are_something_new(watch, clock):
    watch(retry(1000.0))
    watch(retry(1000.0 + GROUPED_WITHIN))
    watch(retry(1000.1 + 2 * GROUPED_WITHIN))
    clock[0] = 1010.0
    assert [decision.times for decision in watch.state().decisions] == [1, 2]


def test_a_storm_does_not_push_out_what_a_circuit_did(watch, clock):
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


def test_sends_and_answers_are_no_decisions(watch):
    watch(Sent(1000.0, 1, TARGET, 1))
    watch(returned(1000.0))
    assert watch.state().decisions == ()


# ------------------------------------------------------------ what engines say


class Stepped(Stage):
    """A stage whose engine can be asked, as one with a driver can."""

    def __init__(self, watch, *args, **options):
        super().__init__(*args, now=1000.0, **options)
        self.engine.look = lambda: lambda **_: self.engine.snapshot(self.now)
        Attached(self.engine, watch)


def test_what_stands_where(watch):
    stage = Stepped(watch, policy(limit=FixedLimit(max_in_flight=2), breaker=BreakerPolicy()))
    runs = [stage.start() for _ in range(4)]
    runs[0].step(told(9.0))
    target = only(watch.state())
    assert (target.target, target.circuit, target.limit) == ("acme/large", "closed", 2)
    assert (target.in_flight, target.queued) == (1, 2)
    assert target.cooldown > 8
    assert target.verdicts == {"throttled": 1}


def test_engines_with_the_same_target_are_one_line(watch):
    stages = [Stepped(watch, policy(limit=FixedLimit(max_in_flight=2))) for _ in range(2)]
    for stage in stages:
        stage.start()
        stage.start(target=OTHER)
    targets = {target.target: target for target in watch.state().targets}
    assert set(targets) == {"acme/large", "acme/small"}
    assert (targets["acme/large"].in_flight, targets["acme/large"].limit) == (2, 4)
    assert targets["acme/small"].in_flight == 2
    assert targets["acme/large"].circuit is None


def test_of_their_cooldowns_the_longest_is_told_and_of_their_budgets_the_poorest(watch):
    stages = [Stepped(watch, Policy(limit=FixedLimit(max_in_flight=9))) for _ in range(2)]
    for stage, asked in zip(stages, (8.0, 4.0), strict=True):
        runs = [stage.start() for _ in range(int(asked))]
        runs[0].step(told(asked))
    target_states = [stage.engine.target_state(TARGET).snapshot(1000.0) for stage in stages]
    target = only(watch.state())
    assert target_states[0]["cooldown"] > target_states[1]["cooldown"] > 0
    assert target_states[0]["budget"] != target_states[1]["budget"]
    assert target.cooldown == round(target_states[0]["cooldown"], 3)
    assert target.budget == round(min(target_state["budget"] for target_state in target_states), 3)


def test_of_their_reasons_that_of_the_longest_queue_is_told(watch):
    stages = [Stepped(watch, policy(limit=FixedLimit(max_in_flight=9))) for _ in range(3)]
    for stage, asked, waiting in zip(stages[:2], (8.0, 4.0), (1, 3), strict=True):
        stage.start().step(told(asked))
        for _ in range(waiting):
            stage.start()
    stages[2].start()

    assert only(watch.state()).slow == "waiting: provider asked for 4 s, 4 s left"


def test_an_engine_that_nobody_steps_has_nothing_to_say(watch):
    Attached(Stage().engine, watch)
    assert watch.state().targets == ()


def test_engines_are_not_kept_alive(watch):
    Stepped(watch)
    assert watch.state().targets == ()


# ------------------------------------------------------------ as JSON


def test_plain_values_say_the_same_as_the_page(watch):
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
    ("body", "said"),
    [
        (b"", "the response is not a stormbreak state"),
        (b"<html>", "the response is not a stormbreak state"),
        (b"[1]", "the response is not a stormbreak state"),
        (b'{"format": "secret"}', "the response is not a stormbreak state"),
        (b'{"format": 1}', "the response is not a stormbreak state"),
        (b"[" * 100_000, "the response is not a stormbreak state"),
        (b'{"format": 2}', r"another version of stormbreak is there \(format 2, not 1\)"),
    ],
)
def test_what_is_no_state_is_said(body, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        decoded(body)


def test_a_state_with_more_in_it_can_be_read(watch):
    more = json.loads(encoded(watch.state())) | {"spend": {"usd": 3}}
    assert decoded(json.dumps(more).encode()) == watch.state()


# ------------------------------------------------------------ threads and forks


def test_threads_count_together(watch, clock):
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


def test_an_event_within_an_event_is_counted_too(watch):
    """The garbage collector may close a call anywhere, on the thread that counts just now."""
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


def test_a_child_begins_anew_whoever_held_the_lock():
    support = Path(__file__).parents[1] / "support"
    environ = {
        **os.environ,
        "PYTHONPATH": f"{support}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    command = [sys.executable, "-c", FORKED]
    subprocess.run(command, env=environ, timeout=30, check=True)
