"""`drivers.chance`: jitter that spreads the processes of a program, whatever it does to `random`."""

import os
import random

import pytest

from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.blocking_driver import BlockingDriver
from stormbreak.drivers.chance import draw
from stormbreak.drivers.flow_stepper import stepper_of
from stormbreak.drivers.thread_driver import ThreadDriver


@pytest.mark.parametrize("kind", [AsyncioDriver, BlockingDriver, ThreadDriver])
def test_drivers_draw_it(kind):
    driver = kind(Engine(Policy()))
    assert stepper_of(driver.engine).chance == draw


def test_a_program_that_seeds_random_does_not_put_it_in_step():
    state = random.getstate()
    try:
        drawn = []
        for _ in range(3):
            random.seed(42)
            drawn.append(draw())
        assert len({*drawn}) == 3
        random.seed(42)
        undisturbed = random.random()
        random.seed(42)
        draw()
        assert random.random() == undisturbed
    finally:
        random.setstate(state)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_forked_children_draw_other_numbers():
    drawn = {draw()}
    for _ in range(2):
        reader, writer = os.pipe()
        if not (child := os.fork()):
            try:
                os.write(writer, repr(draw()).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as said:
            drawn.add(float(said.read()))
        os.waitpid(child, 0)
    drawn.add(draw())
    assert len(drawn) == 4
