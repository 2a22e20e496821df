"""What `/state` says, as values; JSON is made of them, and read into them, here.

There is no key, prompt, label or tenant among them. A reader passes over what it does not know; `format` grows when
something changes its meaning.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

FORMAT = 1
SECONDS = 60  # how far the series look back


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Since the watch began: `calls` that ended, `answered` of them, `cancelled` besides, and what was decided on the way."""

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
    """One target. `verdicts` are those of attempts in the last 60 s; `ok` and `not_ok` count them by the second, oldest first.

    Of a target that only the engine or only the watch knows, the rest is as if nothing were there. `cooldown` is the
    seconds that are left of it, `budget` the retries that could be paid, `slow` says in words what holds its calls back now.
    """

    target: str
    circuit: str | None = None
    in_flight: int = 0
    limit: int | None = None
    queued: int = 0
    cooldown: float = 0.0
    budget: float | None = None
    slow: str = ""
    verdicts: Mapping[str, int]
    ok: tuple[int, ...]
    not_ok: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided so many seconds `ago`, and, alike and close together, so many `times`; in words that may change."""

    ago: float
    name: str
    words: str
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSnapshot:
    """Rows over all runs on an OUTPUT; `rate` is rows per second of late, `to_go` the seconds that the rest would take, `slow` why, in words."""

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
    """US dollars that all attempts have cost, between what is known and the most that it can be.

    Attempts at models without a known price, so many as are `unpriced`, are in neither. Of those that are
    `unbounded` nothing says what they can cost at the most.
    """

    least: float
    most: float
    unpriced: int = 0
    unbounded: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A process at one moment. `watched` is how long it has been, in seconds."""

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


def encoded(state: State) -> bytes:
    """As JSON."""
    return msgspec.json.encode(state)


def decoded(body: bytes) -> State:
    """Read it again.

    Raises:
        ValueError: it is no state, or one of another format; the message says which, and holds nothing of the body.
    """
    try:
        spoken = msgspec.json.decode(body, type=_Format).format
        if spoken == FORMAT:
            return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("it says what no stormbreak says") from None
    raise ValueError(f"it is of another stormbreak (format {spoken}, not {FORMAT})")
