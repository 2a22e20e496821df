"""Three probes that hung held a half-open circuit until their timeouts: a target that lived again was found only then."""

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
    """Calls in turn at one target that answers until it dies; then it hangs until it `lives` again."""

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
def test_a_target_that_lives_again_behind_probes_that_hang_is_found_within_two_seconds(dead_for):
    lives = DIED + dead_for
    site = Site(lives).run(lives + 5.0)

    assert min(at for at in site.answered if at > DIED) - lives <= 2.0


@table_test("dead_for", [40.0, 300.0])
def test_and_as_long_as_it_hangs_it_gets_no_more_than_one_that_fails(dead_for):
    """Three per open time, which grows to five seconds."""
    site = Site(DIED + dead_for).run(DIED + dead_for)
    calm = DIED + TIMEOUT  # by then the circuit is open
    probes = [at for at in site.sent if at > calm]

    assert len(probes) <= 30 + dead_for / 2


def test_where_answers_were_late_before_it_may_be_an_overload_and_the_lease_holds():
    """What hangs after late answers is queued: more of it would make the queue longer."""
    site = Site(DIED + 60.0)
    diagnosis = site.driver.engine.target_state(TARGET).diagnosis
    diagnosis._late_share = 0.9

    assert diagnosis.lost_after is None
