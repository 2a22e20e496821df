"""One engine, one stepper: however many drivers, event loops and threads there are.

The lock is the stepper's. Two steppers on one engine would step its flows at the same time.
"""

from collections.abc import Callable

from stormbreak.core.engine import Engine
from stormbreak.drivers.locks import new_lock
from stormbreak.drivers.steps import Stepper

_lock = new_lock()


def shared_stepper(
    engine: Engine, *, clock: Callable[[], float], chance: Callable[[], float]
) -> Stepper:
    """The stepper of `engine`, for as long as anybody has it.

    Raises:
        ValueError: somebody steps it already, by another clock or chance.
    """
    while True:
        before = engine.look
        look = before()
        stepper: Stepper | None = getattr(look, "__self__", None)
        if stepper is not None:
            if (stepper.clock, stepper.chance) != (clock, chance):
                raise ValueError(
                    "an engine has one clock and one source of chance, and this one has others"
                )
            return stepper
        # Not under the lock: while it is made the garbage collector may come here, too.
        made = Stepper(engine, clock=clock, chance=chance, steps_alone=False)
        mine = made.look
        with _lock:
            if engine.look is before:  # nothing can come between this and the next line
                engine.look = mine
                return made
