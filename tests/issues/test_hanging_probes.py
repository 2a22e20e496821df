"""Three hanging probes kept a circuit half-open until their timeouts, so the recovery of the target was found late."""

import random
from dataclasses import replace

from table_test import table_test

from stormbreak.core.engine import Engine
from stormbreak.core.presets import INTERACTIVE
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.types import Call, Outcome, Target, Verdict

TARGET = Target("acme", "large")
TOOK, TIMEOUT = 0.3, 10.0  # seconds
DIED = 20.0


class Site:
    """Periodic calls to one target that answers until it dies, and then hangs until it recovers at `lives`."""

    def __init__(self, lives):
        self.timeline = Timeline()
        self.driver = VirtualDriver(
            Engine(replace(INTERACTIVE, attempt_timeout=TIMEOUT)),
            self.timeline,
            chance=random.Random(1).random,
        )
        self.lives = lives
        self.sent, self.answered = [], []

    def send(self, _, reply):
        at = self.timeline.now
        self.sent.append(at)
        if DIED <= at < self.lives:
            return
        self.timeline.at(at + TOOK, lambda: self.answer(at, reply))

    def answer(self, at, reply):
        self.answered.append(at)
        reply(Outcome(Verdict.OK))

    def start(self):
        number, deadline_at = self.driver.engine.number(), self.timeline.now + 2 * TIMEOUT
        call = Call(number, TARGET, deadline_at=deadline_at)
        self.driver.start(call, self.send, lambda _: None)

    def run(self, until, *, every=0.1):
        for number in range(int(until / every)):
            self.timeline.at(number * every, self.start)
        self.timeline.run(until)
        return self


@table_test("dead_for", [15.0, 18.0, 25.0, 40.0])
def test_a_recovered_target_is_found_within_two_seconds_despite_hanging_probes(dead_for):
    lives = DIED + dead_for
    site = Site(lives).run(lives + 5.0)

    assert min(at for at in site.answered if at > DIED) - lives <= 2.0


@table_test("dead_for", [40.0, 300.0])
def test_a_hanging_target_gets_no_more_probes_than_a_failing_one(dead_for):
    """Three probes per open period, which grows to five seconds."""
    site = Site(DIED + dead_for).run(DIED + dead_for)
    calm = DIED + TIMEOUT  # the circuit is open at this time
    probes = [at for at in site.sent if at > calm]

    assert len(probes) <= 30 + dead_for / 2


def test_hanging_probes_after_late_answers_keep_their_lease():
    """A hang after late answers indicates an overload: more probes would make the queue longer."""
    site = Site(DIED + 60.0)
    diagnosis = site.driver.engine.target_state(TARGET).diagnosis
    diagnosis._late_share = 0.9

    assert diagnosis.lost_after is None
