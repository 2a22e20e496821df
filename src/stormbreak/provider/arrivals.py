"""Times of arrivals, at a rate with steps and ramps: random (Poisson) or even."""

import math

from stormbreak.provider.chance import exponential, mix
from stormbreak.provider.scenario import Step

RAMP_STEP = 0.25  # seconds; a ramp becomes steps of this length

Rates = list[tuple[float, float]]


def rate_segments(rate: float, steps: tuple[Step, ...]) -> Rates:
    """Return each time with the rate that starts there; a ramp becomes short steps, each with its middle rate."""
    rates = [(0.0, rate)]
    for step in steps:
        before = rates[-1][1]
        count = math.ceil(step.ramp / RAMP_STEP)
        for number in range(count):
            at = step.at + step.ramp * number / count
            rates.append((at, before + (step.rate - before) * (number + 0.5) / count))
        rates.append((step.at + step.ramp, step.rate))
    return rates


def _rate_at(rates: Rates, now: float) -> tuple[float, float | None]:
    """Drop past segments; return the rate at `now`, and the time of its next change."""
    while len(rates) > 1 and rates[1][0] <= now:
        del rates[0]
    return rates[0][1], rates[1][0] if len(rates) > 1 else None


class Poisson:
    """Poisson arrivals, reproducible by `salt`."""

    __slots__ = ("_drawn", "_salt", "_steps")

    def __init__(self, rate: float, steps: tuple[Step, ...], salt: int) -> None:
        self._steps = rate_segments(rate, steps)
        self._salt = salt
        self._drawn = 0

    def next_after(self, now: float) -> float | None:
        """Draw the next arrival; None if no more will come. Times must not go back.

        A gap that crosses a step is redrawn from there: exponential gaps have no memory.
        """
        while True:
            rate, change = _rate_at(self._steps, now)
            if rate > 0:
                self._drawn += 1
                at = now + exponential(mix(self._salt + self._drawn)) / rate
                if change is None or at < change:
                    return at
            if change is None:
                return None
            now = change


class Even:
    """Even arrivals: one each time that the integral of the rate grows by one call."""

    __slots__ = ("_steps",)

    def __init__(self, rate: float, steps: tuple[Step, ...]) -> None:
        self._steps = rate_segments(rate, steps)

    def next_after(self, now: float) -> float | None:
        """Find the next arrival; None if no more will come. `now` is 0 or the previous arrival."""
        missing = 1.0  # of a call
        while True:
            rate, change = _rate_at(self._steps, now)
            if rate > 0 and (change is None or now + missing / rate <= change):
                return now + missing / rate
            if change is None:
                return None
            missing -= rate * (change - now)
            now = change
