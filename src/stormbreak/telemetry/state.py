"""The values of `/state`, and their JSON. They hold no key, prompt, label or tenant.

A reader ignores unknown fields. `format` grows when a field changes its meaning.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

FORMAT = 1
SECONDS = 60  # length of the series


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Totals since the start: `calls` that ended, the `answered` and `cancelled` ones of them, and decisions."""

    calls: int = 0
    answered: int = 0
    cancelled: int = 0
    attempts: int = 0
    retries: int = 0
    retries_refused: int = 0
    rejected: int = 0
    hedges: int = 0
    fallbacks: int = 0
    circuits_opened: int = 0
    cooldowns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSnapshot:
    """One target. `verdicts` counts the attempts of the last 60 s; `ok` and `not_ok` count them by second, oldest first.

    `queue_age` is the seconds that the oldest call has waited, `cooldown` the remaining seconds, `budget` the retries
    it can pay, `sharing` 1 while the store of its fleet answers, `members` the processes in that fleet, `slow` the
    reason why calls wait now.
    """

    target: str
    circuit: str | None = None
    in_flight: int = 0
    limit: int | None = None
    queued: int = 0
    queue_age: float = 0.0
    cooldown: float = 0.0
    budget: float | None = None
    sharing: float | None = None
    members: int | None = None
    slow: str = ""
    verdicts: Mapping[str, int]
    ok: tuple[int, ...]
    not_ok: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A decision `ago` seconds ago; similar ones close together count as one, with their number in `times`."""

    ago: float
    name: str
    text: str
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSnapshot:
    """Rows over all runs on an OUTPUT: `rate` in rows per second, `to_go` in seconds, `slow` the reason if it is slow."""

    total: int
    done: int
    failed: int
    left: int
    rate: float
    to_go: float | None
    retries: int
    stopping: bool
    slow: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSnapshot:
    """The cost of all attempts in US dollars, between bounds.

    `unpriced` attempts, at models without a known price, are in neither bound. The maximum of `unbounded` ones is
    unknown.
    """

    min_usd: float
    max_usd: float
    unpriced: int = 0
    unbounded: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A process at one moment. `watched` is the seconds since the start."""

    format: int = FORMAT
    pid: int
    watched: float
    counts: Counts
    targets: tuple[TargetSnapshot, ...]
    more_targets: int = 0
    decisions: tuple[Decision, ...] = ()
    batch: BatchSnapshot | None = None
    cost: CostSnapshot | None = None


_DECODER = msgspec.json.Decoder(State)


class _Format(msgspec.Struct):
    format: int


_READ_FORMAT = msgspec.json.Decoder(_Format).decode


def encoded(state: State) -> bytes:
    return msgspec.json.encode(state)


def decoded(body: bytes) -> State:
    """Decode JSON. Raises ValueError if it is not a state or has another format; the message never quotes the body."""
    try:
        found = _READ_FORMAT(body).format
        if found == FORMAT:
            return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("the response is not a stormbreak state") from None
    raise ValueError(f"another version of stormbreak answered (format {found}, not {FORMAT})")
