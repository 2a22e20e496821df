"""When calls arrive: a Poisson process whose rate changes in steps."""

from stormbreak.provider.chance import exponential, mix
from stormbreak.provider.scenario import Step


class Poisson:
    """Gives the next arrival after a time; reproducible by `salt`."""

    __slots__ = ("_drawn", "_salt", "_steps")

    def __init__(self, rate: float, steps: tuple[Step, ...], salt: int) -> None:
        self._steps = [(0.0, rate), *((step.at, step.rate) for step in steps)]
        self._salt = salt
        self._drawn = 0

    def next_after(self, now: float) -> float | None:
        """Draw the next arrival; None if no more will come. Times must not go back.

        A gap that reaches over a step is drawn anew from there: exponential gaps have no memory.
        """
        while True:
            while len(self._steps) > 1 and self._steps[1][0] <= now:
                del self._steps[0]
            rate = self._steps[0][1]
            change = self._steps[1][0] if len(self._steps) > 1 else None
            if rate > 0:
                self._drawn += 1
                at = now + exponential(mix(self._salt + self._drawn)) / rate
                if change is None or at < change:
                    return at
            if change is None:
                return None
            now = change
