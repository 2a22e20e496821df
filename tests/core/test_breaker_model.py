"""The breaker against a plain model that keeps every attempt and counts all of them each time."""

from dataclasses import dataclass, field
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from stage import INVALID, OK, SERVER_ERROR, THROTTLED, TIMEOUT

from stormbreak.core.breaker import Breaker
from stormbreak.core.breaker_policy import BreakerPolicy, Mode
from stormbreak.core.circuit_snapshot import parse_snapshot
from stormbreak.core.trip import AnyRule, ConsecutiveFailures, FailureRate, SlowRate
from stormbreak.types import CANCELLED, TREATMENTS

RULES = [
    ConsecutiveFailures(failure_threshold=2),
    FailureRate(ratio=0.5, min_calls=3, window_seconds=10.0),
    FailureRate(ratio=0.6, min_calls=2, window_calls=4),
    SlowRate(ratio=0.5, slow_call_threshold=4.0, min_calls=2, window_seconds=20.0),
    SlowRate(ratio=1.0, slow_call_threshold=4.0, min_calls=1, window_calls=2),
    AnyRule(
        rules=(
            ConsecutiveFailures(failure_threshold=4),
            SlowRate(slow_call_threshold=6.0, min_calls=2, window_calls=3),
        )
    ),
]
OUTCOMES = [
    OK,
    OK,
    SERVER_ERROR,
    SERVER_ERROR,
    SERVER_ERROR._replace(retry_after=30.0),
    TIMEOUT,
    TIMEOUT._replace(own_deadline=True),
    THROTTLED,
    INVALID,
    CANCELLED,
]
FAILURES = {"server_error", "timeout"}


@dataclass(eq=False)
class Attempt:
    token: object
    left_at: float
    state: object  # identity of the state that let it pass
    probe: bool
    tally: str | None = None  # how it was counted
    answered: bool = True


@dataclass(eq=False)
class Plain:
    """States differ by identity; everything else is counted from the list of attempts."""

    policy: BreakerPolicy
    state: str = "closed"
    visit: object = field(default_factory=object)
    attempts: list = field(default_factory=list)
    named_times: list = field(default_factory=list)  # times named since the last success
    results: list = field(default_factory=list)  # (when, failed, took or None if ignored)
    until: float = -inf
    open_for: float = 0.0
    chance: float = 0.5
    ends_at: float = inf
    trips: int = 0
    exhausted: bool = False

    def __post_init__(self):
        self.close("isolated" if self.policy.mode is Mode.FORCED_OPEN else "closed")

    def close(self, state):
        self.enter(state)
        self.named_times, self.results, self.open_for = [], [], self.policy.open_duration

    def enter(self, state):
        self.state, self.visit, self.exhausted = state, object(), False

    def mine(self):
        return [attempt for attempt in self.attempts if attempt.state is self.visit]

    def open(self, at, open_for, chance):
        self.until = self.open_until(at, open_for, chance)
        self.open_for, self.chance = open_for, chance
        self.enter("open")

    def open_until(self, at, open_for, chance):
        own = at + open_for * (1 + self.policy.open_duration_jitter * (2 * chance - 1))
        return max([own] + [at + (t - at) * (1 + 0.5 * chance) for t in self.named_times if t > at])

    def next_open_for(self):
        return self.open_for if self.exhausted else self.grown()

    def grown(self):
        most = max(self.policy.max_open_duration, self.policy.open_duration)
        return min(self.open_for * self.policy.open_duration_factor, most)

    def stale(self, now):
        return self.state == "half_open" and now >= self.ends_at

    def look(self, now):
        if self.stale(now):
            self.open(self.ends_at, self.next_open_for(), self.chance)

    def ready_at(self, now):
        if self.stale(now):
            until = self.open_until(self.ends_at, self.next_open_for(), self.chance)
            return until if until > now else -inf
        if self.state == "half_open":
            over = self.open_until(self.ends_at, self.next_open_for(), self.chance)
            probes, held = self.mine(), self.held(now)
            if self.exhausted:
                return over
            counted = sum(p.tally in ("good", "bad") for p in probes)
            free = len(held) < min(self.policy.max_concurrent_probes, self.policy.probes - counted)
            return -inf if free else min([*held, over] if held else [-inf])
        if self.state == "open":
            return self.until if self.until > now else -inf
        return {"closed": -inf, "isolated": inf}[self.state]

    def held(self, now):
        ends = [p.left_at + self.policy.probe_lease for p in self.mine() if p.tally is None]
        return [end for end in ends if end > now]

    def take(self, token, now):
        self.look(now)
        if self.state == "open":
            self.enter("half_open")
            self.ends_at = now + (self.policy.max_half_open_duration or inf)
        self.attempts.append(Attempt(token, now, self.visit, probe=self.state == "half_open"))

    def settle(self, attempt, outcome, now, chance):
        if self.policy.mode in (Mode.DISABLED, Mode.FORCED_OPEN):
            return
        self.look(now)
        attempt.tally, took = self.tally(attempt, outcome, now), now - attempt.left_at
        attempt.answered = not (outcome is CANCELLED or outcome.own_deadline)
        if attempt.state is not self.visit or self.state not in ("closed", "half_open"):
            return
        bad = (
            attempt.tally == "bad"
            and outcome.verdict.value in FAILURES
            and not outcome.own_deadline
        )
        if bad and outcome.retry_after and self.policy.respect_retry_after:
            self.named_times.append(now + outcome.retry_after)
        if attempt.tally == "good":
            self.named_times = []
        if attempt.probe:
            self.settle_probes(now, chance)
            return
        if attempt.tally in ("good", "bad"):
            self.results.append((now, attempt.tally == "bad", took, True))
        elif outcome.own_deadline or outcome is CANCELLED:
            self.results.append((now, False, took, False))
        else:
            return
        if any(self.too_much(rule, now) for rule in self.rules()):
            self.trips += 1
            if self.policy.mode is Mode.METRICS_ONLY:
                self.results = []
            else:
                self.open(now, self.policy.open_duration, chance)

    def tally(self, attempt, outcome, now):
        if outcome is CANCELLED or outcome.own_deadline:
            tally = None
        elif outcome is OK:
            tally = "good"
        else:
            tally = "bad" if outcome.verdict.value in FAILURES else None
        slow = [r.slow_call_threshold for r in self.rules() if hasattr(r, "slow_call_threshold")]
        judged = tally == "good" or outcome is CANCELLED or outcome.own_deadline
        if attempt.probe and judged and any(now - attempt.left_at >= s for s in slow):
            tally = "bad"
        return tally or "ignored"

    def settle_probes(self, now, chance):
        tallies = [probe.tally for probe in self.mine()]
        good, bad, policy = tallies.count("good"), tallies.count("bad"), self.policy
        if (policy.reopen_on_any_failure and bad) or good + (
            policy.probes - good - bad
        ) < policy.success_ratio * policy.probes - 1e-9:
            self.open(now, self.grown(), chance)  # one under way decides though no more are sent
        elif good >= max(1, policy.success_ratio * policy.probes - 1e-9):
            self.close("closed")
        else:
            self.count_what_came_to_nothing(now)

    def count_what_came_to_nothing(self, now):
        nothing = [probe for probe in self.mine() if probe.tally == "ignored"]
        answered = sum(probe.answered for probe in nothing)
        probes = self.policy.probes
        self.exhausted = answered >= 3 * probes or len(nothing) >= 10 * probes
        if self.exhausted:
            self.ends_at = min(self.ends_at, max(self.held(now), default=now))
            self.look(now)

    def rules(self):
        trip = self.policy.trip
        return trip.rules if trip.kind == "any" else (trip,)

    def too_much(self, rule, now):
        """Whether the newest result is one too many."""
        if rule.kind == "consecutive":
            row = [failed for _, failed, _, counted in self.results if counted]
            newest_counts = self.results[-1][3]
            return (
                newest_counts
                and len(row) >= rule.failure_threshold
                and all(row[-rule.failure_threshold :])
            )
        if rule.kind.startswith("slow"):
            seen = [
                (at, took >= rule.slow_call_threshold)
                for at, _, took, counted in self.results
                if counted or took >= rule.slow_call_threshold
            ]
            counts = self.results[-1][3] or self.results[-1][2] >= rule.slow_call_threshold
        else:
            seen = [(at, failed) for at, failed, _, counted in self.results if counted]
            counts = self.results[-1][3]
        if not counts:
            return False
        if rule.window_calls is not None:
            seen = seen[-rule.window_calls :]
        else:
            width = rule.window_seconds / 10
            seen = [(at, x) for at, x in seen if int(at / width) > int(now / width) - 10]
        many = sum(x for _, x in seen)
        return seen[-1][1] and len(seen) >= rule.min_calls and many >= rule.ratio * len(seen) - 1e-9


class Compared(RuleBasedStateMachine):
    @initialize(
        trip=st.sampled_from(RULES),
        mode=st.sampled_from([Mode.NORMAL] * 5 + list(Mode)[1:]),
        places=st.tuples(st.integers(1, 4), st.integers(1, 4)),
        success_ratio=st.sampled_from([0.1, 0.5, 1.0]),
        growth=st.sampled_from([1.0, 2.0]),
        max_half_open_duration=st.sampled_from([None, 12.0]),
        switches=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    )
    def begin(self, trip, mode, places, success_ratio, growth, max_half_open_duration, switches):
        self.policy = BreakerPolicy(
            mode=mode, trip=trip, probes=max(places), max_concurrent_probes=min(places), success_ratio=success_ratio,
            open_duration_factor=growth, max_half_open_duration=max_half_open_duration, max_open_duration=15.0, probe_lease=5.0,
            reopen_on_any_failure=switches[0], respect_retry_after=switches[1],
        )  # fmt: skip
        self.now = 100.0
        self.plain = Plain(self.policy)
        self.breaker = self.fresh()
        if switches[2]:
            for _ in range(8):
                if self.breaker.ready_at(None, self.now) <= self.now:
                    self.take()
                    self.settle_last(SERVER_ERROR)

    def fresh(self):
        return Breaker(self.policy, TREATMENTS, lambda *_, **__: None)

    def settle_last(self, outcome):
        self.time_passes(8.0 if "slow" in self.policy.trip.kind else 0.0)
        self._settle(self.under_way()[-1], outcome, 0.5)

    def under_way(self):
        return [attempt for attempt in self.plain.attempts if attempt.token is not None]

    @rule()
    def take(self):
        if self.breaker.ready_at(None, self.now) <= self.now:
            self.plain.take(self.breaker.take(None, self.now), self.now)

    @rule(n=st.integers(2, 6))
    def take_many(self, n):
        for _ in range(n):
            self.take()

    @rule(n=st.integers(3, 12), outcome=st.sampled_from([THROTTLED, CANCELLED]))
    def come_to_nothing(self, n, outcome):
        for _ in range(n):
            if self.breaker.ready_at(None, self.now) <= self.now:
                self.take()
                self._settle(self.under_way()[-1], outcome, 0.5)

    @rule(pick=st.integers(0, 99), outcome=st.sampled_from(OUTCOMES), chance=st.floats(0, 0.99))
    def settle(self, pick, outcome, chance):
        if under_way := self.under_way():
            self._settle(under_way[pick % len(under_way)], outcome, chance)

    def _settle(self, attempt, outcome, chance):
        token, attempt.token = attempt.token, None
        self.breaker.settle(token, outcome, self.now, chance)
        self.plain.settle(attempt, outcome, self.now, chance)

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 5.0, 9.0, 40.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(by_hand=st.sampled_from(["isolate", "reset"]))
    def by_hand(self, by_hand):
        getattr(self.breaker, by_hand)(self.now)
        if by_hand == "isolate":
            self.plain.enter("isolated")
        else:
            self.plain.close("isolated" if self.policy.mode is Mode.FORCED_OPEN else "closed")

    @rule(elapsed=st.sampled_from([0.0, 2.0]))
    def restart(self, elapsed):
        saved = parse_snapshot(self.breaker.save(self.now).as_dict())
        trips = self.breaker.trips
        for attempt in self.under_way():  # gone with the process
            attempt.token = None
        left, state, open_for = self.plain.ready_at(self.now), self.plain.state, self.plain.open_for
        if state == "half_open" and not self.plain.stale(self.now):
            left = -inf
        self.breaker = self.fresh()
        self.breaker.trips = trips
        self.breaker.restore(saved, self.now, elapsed=elapsed)
        rests = "isolated" if self.policy.mode is Mode.FORCED_OPEN else "closed"
        self.plain.close("isolated" if state == "isolated" else rests)
        if state in ("open", "half_open") and self.policy.mode is Mode.NORMAL:
            self.plain.enter("open")
            self.plain.open_for, self.plain.chance = open_for, 0.5
            self.plain.until = self.now + max(0.0, left - self.now - elapsed)

    @invariant()
    def they_agree(self):
        if not hasattr(self, "plain"):
            return
        assert self.breaker.state.value == self.plain.state
        assert self.breaker.trips == self.plain.trips
        assert self.breaker.ready_at(None, self.now) == pytest.approx(self.plain.ready_at(self.now))


Compared.TestCase.settings = settings(
    max_examples=max(60, settings.default.max_examples), stateful_step_count=40, deadline=None
)
TestCompared = Compared.TestCase
