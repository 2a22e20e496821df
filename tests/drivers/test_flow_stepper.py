"""One engine has one stepper, one lock, one clock."""

import gc

import pytest
from crowd import BackgroundTraffic
from stage import policy
from table_test import table_test

from stormbreak.core.engine import Engine
from stormbreak.drivers.asyncio_driver import AsyncioDriver


def test_drivers_of_one_engine_share_its_stepper():
    engine = Engine(policy())

    assert AsyncioDriver(engine)._stepper is AsyncioDriver(engine)._stepper
    assert AsyncioDriver(engine)._stepper is not AsyncioDriver(Engine(policy()))._stepper


@table_test("other", [{"clock": lambda: 0.0}, {"chance": lambda: 0.0}])
def test_an_engine_has_one_clock_and_one_chance(other):
    engine = Engine(policy())
    driver = AsyncioDriver(engine)
    with pytest.raises(ValueError, match="one clock"):
        AsyncioDriver(engine, **other)
    assert driver._stepper.engine is engine


def test_a_stepper_ends_with_its_drivers():
    engine = Engine(policy())
    driver = AsyncioDriver(engine)
    assert engine.snapshot()
    del driver
    gc.collect()

    with pytest.raises(RuntimeError, match="no driver runs"):
        engine.snapshot()


def test_thousands_of_tasks_on_two_loops_leave_nothing_behind():
    crowd = BackgroundTraffic()
    crowd.run(tasks=1_500)

    crowd.check(started=3_000)


def test_sixty_four_threads_leave_nothing_behind():
    crowd = BackgroundTraffic()
    crowd.run_threads(threads=64)

    crowd.check(started=64 * 20)
