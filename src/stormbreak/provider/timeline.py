"""The faults of a scenario laid out in time, and which requests a fault picks."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import msgspec

from stormbreak.provider.chance import mix, uniform
from stormbreak.provider.fault_kinds import CONDITIONS, STREAM_ONLY, Kind
from stormbreak.provider.scenario import Fault, Scenario


class Asking(NamedTuple):
    """A request as a trouble sees it; `text` is its body, as JSON without escapes that could be left out."""

    number: int  # the first of the clients' requests is 1
    attempt: int  # the first with this body is 1
    text: bytes = b""


def picked(trouble: Fault, asking: Asking) -> bool:
    """Whether a trouble may strike this request: all of its keys must fit."""
    if trouble.requests and asking.number not in trouble.requests:
        return False
    if trouble.first_attempts is not None and asking.attempt > trouble.first_attempts:
        return False
    return trouble.match is None or _written(trouble.match) in asking.text


@lru_cache(maxsize=1000)
def _written(text: str) -> bytes:
    """The text as it stands inside of a JSON string."""
    return msgspec.json.encode(text)[1:-1]


# ---------------------------------------------------------------- phases of a scenario
# A ramp becomes short steps. The model then only ever asks what the present spell says.

_RAMP_STEP = 0.25
_NOT_DRAWN = CONDITIONS | {Kind.EARLY_ANSWER}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """What holds from `at` until the next spell. `slots` may be infinite."""

    at: float
    slots: float
    slowdown: float
    down: Fault | None
    faults: tuple[tuple[float, Fault], ...]  # with the upper end of each one's part of [0, 1)
    picky: tuple[Fault, ...] = ()  # those that choose their requests
    early: float = 0.0  # share of the requests that are answered before they were read

    def draw(self, bits: int, asking: Asking | None = None, *, streamed: bool) -> Fault | None:
        """Choose the trouble of one request; None where all goes well.

        Troubles that choose go before those of chance, in the order of the file; nobody's request (the crowd's)
        is chosen.
        """
        if asking is not None:
            for place, trouble in enumerate(self.picky):
                fits = streamed or trouble.kind not in STREAM_ONLY
                if fits and picked(trouble, asking) and uniform(mix(bits + place)) < trouble.share:
                    return trouble
        chance = uniform(bits)
        for end, trouble in self.faults:
            if chance < end:
                return None if trouble.kind in STREAM_ONLY and not streamed else trouble
        return None


def forecast(scenario: Scenario) -> tuple[Spell, ...]:
    """Lay out all spells in order; the first begins at 0, the last never ends."""
    moments = {0.0}
    for trouble in scenario.faults:
        moments.add(trouble.at)
        if trouble.until is not None:
            moments.update(trouble.until + step for step in _ramp_steps(trouble.ramp))
    return tuple(_phase(scenario, moment) for moment in sorted(moments))


def _ramp_steps(ramp: float) -> list[float]:
    return [min(step * _RAMP_STEP, ramp) for step in range(math.ceil(ramp / _RAMP_STEP) + 1)]


def _phase(scenario: Scenario, now: float) -> Spell:
    present = [trouble for trouble in scenario.faults if _holds(trouble, now)]
    faults, end = [], 0.0
    for trouble in present:
        if trouble.kind not in _NOT_DRAWN and not trouble.picks:
            end += trouble.share
            faults.append((end, trouble))
    slots = scenario.provider.slots
    capacity = _factor(scenario, Kind.CAPACITY, now)
    return Spell(
        at=now,
        slots=math.inf if slots is None else math.floor(slots * capacity + 1e-9),
        slowdown=_factor(scenario, Kind.SERVICE, now),
        down=next((trouble for trouble in present if trouble.kind is Kind.DOWN), None),
        faults=tuple(faults),
        picky=tuple(trouble for trouble in present if trouble.picks),
        early=sum(trouble.share for trouble in present if trouble.kind is Kind.EARLY_ANSWER),
    )


def _holds(trouble: Fault, now: float) -> bool:
    return trouble.at <= now and (trouble.until is None or now < trouble.until)


def _factor(scenario: Scenario, kind: Kind, now: float) -> float:
    product = 1.0
    for trouble in scenario.faults:
        if trouble.kind is kind and trouble.factor is not None:
            product *= _faded(trouble, trouble.factor, now)
    return product


def _faded(trouble: Fault, factor: float, now: float) -> float:
    if now < trouble.at:
        return 1.0
    if trouble.until is None or now < trouble.until:
        return factor
    progress = (now - trouble.until) / trouble.ramp if trouble.ramp else 1.0
    return factor + (1.0 - factor) * min(progress, 1.0)
