from stage import OK, SERVER_ERROR, TARGET, policy, retry_in

from stormbreak.core.backoff import Backoff
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.retry import RetryPolicy
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.types import Call, Verdict


class SimulatedProvider:
    def __init__(self, **rules):
        self.timeline = Timeline()
        self.engine = Engine(policy(limit=FixedLimit(max_in_flight=1), **rules))
        self.driver = VirtualDriver(self.engine, self.timeline, chance=lambda: 0.0)
        self.ends = []
        self.cancelled = []
        self.sent = []

    def start(self, *outcomes, takes=1.0, number=1, **call):
        answers = iter(outcomes)

        def sender(send, reply):
            self.sent.append(self.timeline.now)
            outcome = next(answers)
            if takes is None:
                reply(outcome)
            else:
                self.timeline.at(self.timeline.now + takes, lambda: reply(outcome))
            return lambda: self.cancelled.append(number)

        def done(ended):
            self.ends.append((number, self.timeline.now, ended.outcome.verdict.value))

        return self.driver.start(Call(number, TARGET, **call), sender, done)

    @property
    def at_rest(self):
        target_state = self.engine.target_state(TARGET)
        return (target_state.slots.in_flight, target_state.admission.queued) == (0, 0)


def test_timers_fire_in_the_order_of_time_and_then_of_scheduling():
    timeline, seen = Timeline(start=5.0), []
    for when, name in [(9.0, "late"), (7.0, "a"), (7.0, "b"), (1.0, "past")]:
        timeline.at(when, lambda name=name: seen.append((timeline.now, name)))
    timeline.run(until=8.0)
    assert seen == [(5.0, "past"), (7.0, "a"), (7.0, "b")]
    assert timeline.time() == 8.0
    timeline.run()
    assert seen[3:] == [(9.0, "late")]
    assert timeline.time() == 9.0


def test_hours_pass_at_once():
    world = SimulatedProvider(
        retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=3600.0))
    )
    world.start(SERVER_ERROR, SERVER_ERROR, OK)
    world.timeline.run()

    assert world.ends == [(1, 7203.0, "ok")]


def test_a_sender_may_answer_at_once():
    world = SimulatedProvider()
    for number in range(3):
        world.start(OK, takes=None, number=number)

    assert world.ends == [(0, 0.0, "ok"), (1, 0.0, "ok"), (2, 0.0, "ok")]
    assert world.cancelled == []


def test_waiting_calls_follow_one_another():
    world = SimulatedProvider()
    for number in range(3):
        world.start(OK, number=number)
    world.timeline.run()

    assert world.ends == [(0, 1.0, "ok"), (1, 2.0, "ok"), (2, 3.0, "ok")]


def test_a_call_waits_for_a_cooldown():
    world = SimulatedProvider()
    world.start(retry_in(30.0), OK)
    world.timeline.run(2.0)
    world.start(OK, number=2)
    world.timeline.run()

    assert sorted(world.sent)[:2] == [0.0, 31.0]
    assert world.at_rest


def test_an_attempt_is_cancelled_at_its_timeout_and_its_answer_ignored():
    world = SimulatedProvider(attempt_timeout=3.0, retry=RetryPolicy(max_attempts=1))
    world.start(OK, takes=10.0)
    world.timeline.run()

    assert world.ends == [(1, 3.0, Verdict.TIMEOUT.value)]
    assert world.cancelled == [1]
    assert world.at_rest


def test_a_cancel_stops_the_attempt_and_releases_the_next_call():
    world = SimulatedProvider()
    cancel = world.start(OK, takes=10.0)
    world.start(OK, number=2)
    world.timeline.at(4.0, cancel)
    world.timeline.at(5.0, cancel)
    world.timeline.run()

    assert world.cancelled == [1]
    assert world.ends == [(2, 5.0, "ok")]
    assert world.at_rest


def test_calls_can_be_cancelled_in_the_queue_and_in_a_backoff():
    world = SimulatedProvider()
    world.start(OK, takes=10.0)
    queued = world.start(OK, number=2)
    world.timeline.at(4.0, queued)
    world.timeline.run()
    backing_off = world.start(retry_in(30.0), number=3)
    world.timeline.at(world.timeline.now + 5.0, backing_off)
    world.timeline.run()

    assert world.ends == [(1, 10.0, "ok")]
    assert world.at_rest


def test_cancelling_an_ended_call_does_nothing():
    world = SimulatedProvider()
    cancel = world.start(OK, takes=None)
    cancel()

    assert world.ends == [(1, 0.0, "ok")]
    assert world.cancelled == []


def test_a_cancelled_timer_does_not_fire_and_moves_no_clock():
    timeline, seen = Timeline(), []
    timers = [timeline.at(float(n), lambda n=n: seen.append(n)) for n in range(1, 1000)]
    for timer in timers[10:]:
        timeline.cancel(timer)
        timeline.cancel(timer)
    assert len(timeline._due) < 100  # removed, not kept until due
    timeline.run()

    assert seen == list(range(1, 11))
    assert timeline.time() == 10.0


def test_a_timer_may_cancel_other_timers():
    timeline, seen = Timeline(), []
    timers = [timeline.at(2.0 + n, lambda n=n: seen.append(n)) for n in range(500)]
    timeline.at(1.0, lambda: [timeline.cancel(timer) for timer in timers[1:]])
    timeline.at(600.0, lambda: seen.append("last"))
    timeline.run()

    assert seen == [0, "last"]


def test_cancelling_a_fired_timer_changes_nothing():
    timeline, seen = Timeline(), []
    timer = timeline.at(1.0, lambda: seen.append("done"))
    timeline.run()
    for _ in range(1000):
        timeline.cancel(timer)
    timeline.at(2.0, lambda: seen.append("next"))
    timeline.run()

    assert seen == ["done", "next"]
    assert timeline._cancelled == 0


def test_cancelled_timers_are_counted_again_after_a_cleanup():
    timeline = Timeline()
    for _ in range(3):
        for timer in [timeline.at(1.0, lambda: None) for _ in range(100)]:
            timeline.cancel(timer)
        assert timeline._cancelled == len(timeline._due)


def test_an_ended_call_leaves_no_timer_behind():
    world = SimulatedProvider(attempt_timeout=600.0)
    for number in range(3):
        world.start(OK, number=number, deadline_at=500.0)
    world.timeline.run()

    assert world.timeline.now == 3.0


def test_timeouts_fire_in_the_order_of_timers():
    whens = [(n * 37 % 10) + n / 7 for n in range(300)]

    def fired(kind):
        timeline, seen = Timeline(), []

        def schedule(n):
            schedules = timeline.at if n % 3 else getattr(timeline, kind)
            timers.append(schedules(timeline.now + whens[n] % 10, lambda: seen.append(n)))
            timeline.cancel(timers[n * 5 % len(timers)])

        timers = []
        for n in range(len(whens)):
            timeline.at(n / 3, lambda n=n: schedule(n))
        timeline.run()
        return seen, timeline.now, timeline._cancelled, len(timeline._timeouts)

    assert fired("timeout") == fired("at")
