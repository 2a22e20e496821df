"""The faults of a scenario over time, and the requests that a fault selects."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import msgspec

from stormbreak.provider.arrivals import RAMP_STEP
from stormbreak.provider.chance import mix, uniform
from stormbreak.provider.fault_kinds import CONDITIONS, STREAM_ONLY, Kind
from stormbreak.provider.scenario import Fault, Scenario


class RequestInfo(NamedTuple):
    """The part of a request that selects faults; `text` is its body, as JSON without optional escapes."""

    number: int  # the first of the clients' requests is 1
    attempt: int  # the first with this body is 1
    text: bytes = b""


def matches(fault: Fault, request_info: RequestInfo) -> bool:
    """Whether a fault applies to this request: all of its keys must match."""
    if fault.requests and request_info.number not in fault.requests:
        return False
    if fault.first_attempts is not None and request_info.attempt > fault.first_attempts:
        return False
    return fault.match is None or _written(fault.match) in request_info.text


@lru_cache(maxsize=1000)
def _written(text: str) -> bytes:
    """Encode the text as inside a JSON string."""
    return msgspec.json.encode(text)[1:-1]


# A ramp becomes short steps, each a phase.

_NOT_DRAWN = CONDITIONS | {Kind.EARLY_ANSWER}


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """The state of the provider from `at` until the next phase. `slots` may be infinite."""

    at: float
    slots: float
    slowdown: float
    down: Fault | None
    faults: tuple[tuple[float, Fault], ...]  # with the upper end of its part of [0, 1)
    selective: tuple[Fault, ...] = ()  # faults that select their requests
    early: float = 0.0  # share of the requests that are answered before they are read

    def draw(
        self, bits: int, request_info: RequestInfo | None = None, *, streamed: bool
    ) -> Fault | None:
        """Draw the fault of one request; None: a good answer.

        Selective faults come first, in the order of the file. They never select background traffic.
        """
        if request_info is not None:
            for place, fault in enumerate(self.selective):
                fits = streamed or fault.kind not in STREAM_ONLY
                if (
                    fits
                    and matches(fault, request_info)
                    and uniform(mix(bits + place)) < fault.share
                ):
                    return fault
        chance = uniform(bits)
        for end, fault in self.faults:
            if chance < end:
                return None if fault.kind in STREAM_ONLY and not streamed else fault
        return None


def forecast(scenario: Scenario) -> tuple[Phase, ...]:
    """Lay out all phases in order; the first begins at 0, the last never ends."""
    moments = {0.0}
    for fault in scenario.faults:
        moments.add(fault.at)
        if fault.until is not None:
            moments.update(fault.until + step for step in _ramp_steps(fault.ramp))
    return tuple(_phase(scenario, moment) for moment in sorted(moments))


def _ramp_steps(ramp: float) -> list[float]:
    return [min(step * RAMP_STEP, ramp) for step in range(math.ceil(ramp / RAMP_STEP) + 1)]


def _phase(scenario: Scenario, now: float) -> Phase:
    present = [fault for fault in scenario.faults if fault.holds(now)]
    faults, end = [], 0.0
    for fault in present:
        if fault.kind not in _NOT_DRAWN and not fault.is_selective:
            end += fault.share
            faults.append((end, fault))
    slots = scenario.provider.slots
    capacity = _factor(scenario, Kind.CAPACITY, now)
    return Phase(
        at=now,
        slots=math.inf if slots is None else math.floor(slots * capacity + 1e-9),
        slowdown=_factor(scenario, Kind.SERVICE, now),
        down=next((fault for fault in present if fault.kind is Kind.DOWN), None),
        faults=tuple(faults),
        selective=tuple(fault for fault in present if fault.is_selective),
        early=sum(fault.share for fault in present if fault.kind is Kind.EARLY_ANSWER),
    )


def _factor(scenario: Scenario, kind: Kind, now: float) -> float:
    product = 1.0
    for fault in scenario.faults:
        if fault.kind is kind and fault.factor is not None:
            product *= _faded(fault, fault.factor, now)
    return product


def _faded(fault: Fault, factor: float, now: float) -> float:
    if now < fault.at:
        return 1.0
    if fault.until is None or now < fault.until:
        return factor
    progress = (now - fault.until) / fault.ramp if fault.ramp else 1.0
    return factor + (1.0 - factor) * min(progress, 1.0)
