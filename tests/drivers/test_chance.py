"""`drivers.chance`: jitter that differs between processes, whatever a program does with `random`."""

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
def test_drivers_draw_from_chance(kind):
    driver = kind(Engine(Policy()))
    assert stepper_of(driver.engine).chance == draw


def test_a_seeded_random_module_does_not_repeat_draws():
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
def test_forked_children_draw_different_numbers():
    drawn = {draw()}
    for _ in range(2):
        reader, writer = os.pipe()
        if not (child := os.fork()):
            try:
                os.write(writer, repr(draw()).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            drawn.add(float(pipe.read()))
        os.waitpid(child, 0)
    drawn.add(draw())
    assert len(drawn) == 4
