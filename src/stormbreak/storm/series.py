"""What happened in each second of a simulation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stormbreak.storm.ideal import Amount
from stormbreak.storm.measures import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One number for each second, from 0 on: calls that arrived, attempts, answers in time, and the ideal's.

    `failed` calls ended in that second without an answer in time after an attempt, `shed` ones without any.
    """

    calls: tuple[int, ...]
    attempts: tuple[int, ...]
    answers: tuple[int, ...]
    ideal: tuple[float, ...]
    failed: tuple[int, ...]
    shed: tuple[int, ...]


def series(records: Sequence[Record], ideal: Sequence[Amount], attempts: Sequence[int]) -> Series:
    """Count by second."""
    length = 1 + int(max((record.ended for record in records), default=0.0))
    lost = [record for record in records if not record.answered]
    flow = [0.0] * length
    for at, calls in ideal:
        if at < length:
            flow[int(at)] += calls
    return Series(
        calls=_counted((record.arrived for record in records), length),
        attempts=(*attempts, *[0] * (length - len(attempts))),
        answers=_counted((record.ended for record in records if record.answered), length),
        ideal=tuple(flow),
        failed=_counted((record.ended for record in lost if record.attempts), length),
        shed=_counted((record.ended for record in lost if not record.attempts), length),
    )


def _counted(times: Iterable[float], length: int) -> tuple[int, ...]:
    counts = [0] * length
    for at in times:
        counts[int(at)] += 1
    return tuple(counts)
