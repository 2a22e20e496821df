"""One engine, one stepper: however many drivers, event loops and threads there are.

The lock is the stepper's. Two steppers on one engine would step its flows at the same time.
"""

import threading
from collections.abc import Callable
from weakref import WeakValueDictionary

from stormbreak.core.engine import Engine
from stormbreak.drivers.steps import Stepper

_steppers: WeakValueDictionary[int, Stepper] = WeakValueDictionary()
_lock = threading.Lock()


def stepper_of(
    engine: Engine, *, clock: Callable[[], float], chance: Callable[[], float]
) -> Stepper:
    """The stepper of `engine`, for as long as anybody has it.

    Raises:
        ValueError: somebody steps it already, by another clock or chance.
    """
    with _lock:
        stepper = _steppers.get(id(engine))  # a stepper that lives keeps its engine, and so the id
        if stepper is None:
            stepper = _steppers[id(engine)] = Stepper(engine, clock=clock, chance=chance)
        elif (stepper.clock, stepper.chance) != (clock, chance):
            raise ValueError(
                "an engine has one clock and one source of chance, and this one has others"
            )
        return stepper
