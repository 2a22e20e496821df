"""A sender may report the first output of its attempt, under each driver."""

from functools import partial

import pytest
from stage import OK, SERVER_ERROR, TARGET, policy
from virtual_loop import run

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.engine import Engine
from stormbreak.core.flow import Send
from stormbreak.core.retry import RetryPolicy
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.types import Call, Verdict

RULES = policy(
    limit=AutomaticLimit(headroom_factor=2.0, headroom=0.0), retry=RetryPolicy(max_attempts=1)
)


class Scene:
    """A virtual driver whose attempts the test answers."""

    def __init__(self):
        self.engine, self.timeline = Engine(RULES), Timeline()
        self.driver = VirtualDriver(self.engine, self.timeline)
        self.sent, self.ended = [], []

    def send(self, send, reply):
        self.sent.append((send, reply))

    def start(self, count=1):
        for _ in range(count):
            call = Call(self.engine.number(), TARGET, streams=True)
            self.driver.start(call, self.send, self.ended.append)

    def fail(self, count=8):
        self.start(count)
        for _ in range(count):
            self.sent.pop()[1](SERVER_ERROR)

    @property
    def serving(self):
        return self.engine.target_state(TARGET).diagnosis._first_output_estimate.serving


def test_a_first_output_counts_once():
    scene = Scene()
    scene.start()
    send, reply = scene.sent[0]
    scene.driver.first_output(send)
    scene.driver.first_output(send)
    assert scene.serving == 1
    reply(OK)
    scene.driver.first_output(send)

    assert scene.serving == 0


def test_a_first_output_releases_a_waiting_call():
    scene = Scene()
    scene.fail()
    scene.start(8)
    scene.timeline.run(until=0.1)  # the timer ticket has checked
    assert len(scene.sent) == 1
    scene.driver.first_output(scene.sent[0][0])
    scene.timeline.run(until=0.1)  # at once: no time passes

    assert len(scene.sent) == 2


def test_a_first_output_without_a_permit_is_ignored():
    scene = Scene()
    scene.driver.first_output(Send(TARGET, 1, None))

    assert scene.serving == 0


def test_a_listener_may_not_report_a_first_output():
    scene = Scene()
    scene.start()
    refused = []

    def report(_):
        with pytest.raises(RuntimeError, match="listener"):
            scene.driver.first_output(scene.sent[0][0])
        refused.append(True)

    scene.engine.listeners.append(report)
    scene.start()

    assert refused


def test_a_first_output_counts_under_asyncio():
    seen = []

    async def sender(driver, send):
        driver.first_output(send)
        seen.append(driver.engine.target_state(TARGET).diagnosis._first_output_estimate.serving)
        return OK

    async def main():
        driver = AsyncioDriver(Engine(RULES))
        ended = await driver.run(Call(1, TARGET, streams=True), partial(sender, driver))
        assert ended.outcome.verdict is Verdict.OK
        seen.append(driver.engine.target_state(TARGET).diagnosis._first_output_estimate.serving)

    run(main)
    assert seen == [1, 0]
