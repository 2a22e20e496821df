"""Scenarios as the test suites of other breakers have them, as one table.

They reproduce the state machine that resilience4j publishes, with the settings that docs/breakers.md sets side by side:
count and time windows and their least number of calls, slow calls, permitted calls in half-open, growing waits, the longest
half-open, results that come late, and the modes. `DIFFERENT` are the scripts that end otherwise there, on purpose.

A script is words: `ok`, `err`, `slow` (ok, but 5 s), `429`, `cancel` are calls; `x3` repeats the word before; `+10` lets
seconds pass; `closed`, `open`, `half_open`, `isolated` say where the circuit must stand, `refused` that a call may not
pass now. `hang` starts a call that is answered by a later `back-ok` or `back-err`, oldest first.
"""

from stage import OK, SERVER_ERROR, THROTTLED
from table_test import table_test

from stormbreak.core.breaker import Breaker
from stormbreak.core.breaker_policy import BreakerPolicy, Mode, State
from stormbreak.core.trip import AnyRule, ConsecutiveFailures, FailureRate, SlowRate
from stormbreak.types import CANCELLED, TREATMENTS

ROW = ConsecutiveFailures(failure_threshold=3)
LAST = FailureRate(ratio=0.5, min_calls=10, window_calls=10)
LAST_5 = FailureRate(ratio=0.5, min_calls=5, window_calls=10)
TIMED = FailureRate(ratio=0.5, min_calls=5, window_seconds=10.0)
SLOW = SlowRate(ratio=0.5, slow_call_threshold=5.0, min_calls=4, window_calls=10)
SLOW_TIMED = SlowRate(ratio=0.5, slow_call_threshold=5.0, min_calls=3, window_seconds=20.0)
BOTH = AnyRule(rules=(ROW, SLOW))
ONE = {"probes": 1, "max_concurrent_probes": 1}
TEN = {"probes": 10, "max_concurrent_probes": 10}
HUNDRED = FailureRate(
    ratio=0.5, min_calls=100, window_calls=100
)  # resilience4j's own defaults, ...
PERMITTED = {
    **TEN,
    "success_ratio": 0.51,
}  # ... and its ten calls, of which five failures are too many

SCENARIOS = [
    # rule, changes, script
    (ROW, {}, "err x2 closed err open refused"),
    (ROW, {}, "err x2 ok err x2 closed"),
    (ROW, {}, "err x2 429 cancel err open"),
    (LAST, {}, "err x9 closed err open"),
    (LAST, {}, "ok x5 err x4 closed err open"),
    (LAST, {}, "ok x6 err x4 closed"),
    (LAST, {}, "ok x99 err x4 closed err open"),  # the window slides
    (LAST, {}, "err x4 ok x10 err x4 closed"),  # what left it is forgotten
    (LAST_5, {}, "err x4 closed err open"),
    (LAST_5, {}, "ok x3 err x2 closed err open"),
    (TIMED, {}, "err x4 closed +11 err closed"),
    (TIMED, {}, "err x2 +5 err x2 closed err open"),
    (TIMED, {}, "ok x5 +11 err x5 open"),
    (SLOW, {}, "slow x3 closed slow open"),
    (SLOW, {}, "ok x4 slow x3 closed slow open"),
    (SLOW, {}, "err x20 closed"),
    (SLOW_TIMED, {}, "slow x2 closed slow open"),
    (SLOW_TIMED, {}, "slow x2 +20 slow closed"),
    (BOTH, {}, "err x3 open"),
    (BOTH, {}, "slow x4 open"),
    (BOTH, {}, "err slow err closed slow open"),
    # open and half-open
    (ROW, ONE, "err x3 +9.9 refused open +0.1 ok closed"),
    (ROW, ONE, "err x3 +10 err open +9 refused +1 ok closed"),
    (ROW, ONE, "err x3 +10 hang half_open refused back-ok closed"),
    (ROW, ONE, "err x3 +10 hang refused +60 hang half_open back-ok closed"),  # its lease is over
    (ROW, ONE, "err x3 +10 cancel half_open 429 half_open ok closed"),
    (ROW, ONE, "err x3 +10 ok closed err x2 closed err open"),
    (ROW, TEN, "err x3 +10 ok x4 half_open ok closed"),
    (ROW, TEN, "err x3 +10 err x5 half_open err open"),
    (ROW, {**TEN, "success_ratio": 1.0}, "err x3 +10 ok x9 half_open err open"),
    (ROW, {**TEN, "reopen_on_any_failure": True}, "err x3 +10 ok x4 err open"),
    (ROW, {**TEN, "max_concurrent_probes": 2}, "err x3 +10 hang x2 refused back-ok hang refused"),
    (ROW, ONE, "hang x3 err x3 open back-ok back-err open +10 ok closed back-err closed"),
    (ROW, {**ONE, "max_half_open_duration": 30.0}, "err x3 +10 cancel +29 half_open +1 refused"),
    (ROW, {**ONE, "max_half_open_duration": 30.0}, "err x3 +10 cancel +40 ok closed"),
    (
        ROW,
        {**ONE, "max_half_open_duration": None},
        "err x3 +10 cancel +1000000 half_open ok closed",
    ),
    (
        ROW,
        {**ONE, "open_duration_factor": 3.0},
        "err x3 +10 err +29 refused +1 err +89 refused +1 ok closed",
    ),
    (SLOW, ONE, "slow x4 +10 slow open +10 ok closed"),
    (HUNDRED, {}, "ok x50 err x49 closed err open"),
    (HUNDRED, {}, "ok x51 err x49 closed"),
    (HUNDRED, PERMITTED, "err x100 +10 ok x5 err x4 half_open ok closed err x99 closed err open"),
    (ROW, PERMITTED, "err x3 +10 ok x5 err x4 half_open err open"),
    (ROW, PERMITTED, "err x3 +10 hang x10 refused back-cancel hang refused back-429 ok refused"),
    (SLOW, PERMITTED, "slow x4 open +10 slow x4 half_open slow open"),
    (SLOW_TIMED, PERMITTED, "slow x3 open +10 ok x5 slow x4 half_open ok closed"),
    (
        ROW,
        {**ONE, "open_duration_factor": 2.0, "max_open_duration": 15.0},
        "err x3 +10 err +14 refused +1 err +14 refused +1 ok closed",
    ),
    (
        ROW,
        {**ONE, "open_duration_factor": 2.0},
        "err x3 +10 err +20 ok closed err x3 +9 refused +1 ok closed",
    ),
    (
        ROW,
        {**TEN, "max_half_open_duration": 30.0},
        "err x3 +10 ok x4 +29 half_open +1 refused +9 refused",
    ),
    # by hand and by mode
    (ROW, {}, "isolate isolated refused +1000000 refused reset closed ok"),
    (ROW, {}, "err x3 isolate reset closed err x2 closed"),
    (ROW, {}, "hang isolate back-ok isolated"),
    (ROW, {"mode": Mode.DISABLED}, "err x99 closed isolate refused reset closed"),
    (ROW, {"mode": Mode.METRICS_ONLY}, "err x99 closed isolate refused reset closed"),
    (ROW, {"mode": Mode.FORCED_OPEN}, "isolated refused reset isolated +1000000 refused"),
]
DIFFERENT = [
    (
        LAST,
        {},
        "err x5 ok x5 closed err open",
    ),  # a success opens nothing; there the tenth call does
    (ROW, ONE, "hang x2 err x3 +10 hang half_open back-err back-ok half_open back-ok closed"),
    (
        ROW,
        TEN,
        "err x3 +10 ok x5 closed",
    ),  # the other five cannot change it; there all ten are awaited
    (ROW, ONE, "err x3 +10 hang refused +60 ok closed"),  # one that hangs keeps its place there
]
CALLS = {"ok": OK, "err": SERVER_ERROR, "slow": OK, "429": THROTTLED, "cancel": CANCELLED}


class Scene:
    def __init__(self, rule, changes):
        defaults = {
            "open_duration": 10.0,
            "open_duration_jitter": 0.0,
            "open_duration_factor": 1.0,
            "max_open_duration": 120.0,
            "success_ratio": 0.5,
        }
        policy = BreakerPolicy(trip=rule, **{**defaults, **changes})
        self.breaker = Breaker(policy, TREATMENTS, lambda *_, **__: None)
        self.now = 1000.0
        self.hanging = []

    def take(self):
        assert self.breaker.ready_at(None, self.now) <= self.now
        return self.breaker.take(None, self.now)

    def settle(self, token, outcome):
        self.breaker.settle(token, outcome, self.now, 0.5)

    def act(self, word):
        if word in CALLS:
            token = self.take()
            self.now += 5.0 if word == "slow" else 0.0
            self.settle(token, CALLS[word])
        elif word == "hang":
            self.hanging.append(self.take())
        elif word.startswith("back-"):
            self.settle(self.hanging.pop(0), CALLS[word.removeprefix("back-")])
        elif word.startswith("+"):
            self.now += float(word)
        elif word == "refused":
            assert self.breaker.ready_at(None, self.now) > self.now
        elif word in ("isolate", "reset"):
            getattr(self.breaker, word)(self.now)
        else:
            assert State(word) is self.breaker.state

    def play(self, script):
        before = None
        for word in script.split():
            if word.startswith("x") and word[1:].isdigit():
                for _ in range(int(word[1:]) - 1):
                    self.act(before)
            else:
                self.act(word)
                before = word


@table_test(
    ("rule", "changes", "script"),
    SCENARIOS + DIFFERENT,
)
def test_each_script_leads_to_its_states(rule, changes, script):
    Scene(rule, changes).play(script)
