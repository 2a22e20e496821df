"""What happened in one act, second by second of the storm."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from stormbreak.events import Event, Returned, Sent
from stormbreak.types import Verdict

CALM = 0.95  # share of successes that counts as recovered ...
SPELL = 5.0  # ... when it holds for this many seconds


@dataclass(slots=True)
class Record:
    """Attempts of one act. Times are storm seconds, `speed` times faster than the clock's."""

    speed: float
    began: float | None = None
    sent: int = 0
    returned: list[tuple[float, bool]] = field(default_factory=list)

    def hear(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, Sent):
            self.sent += 1
            self.began = event.at if self.began is None else self.began
        elif isinstance(event, Returned) and self.began is not None:
            at = (event.at - self.began) * self.speed
            self.returned.append((at, event.verdict is Verdict.OK))

    @property
    def last_at(self) -> float:
        """Storm time of the last attempt that came back."""
        return self.returned[-1][0] if self.returned else 0.0

    def recovery(self, trouble_ends: float) -> float | None:
        """Seconds from the trouble's end to the first `SPELL` with `CALM` successes; None: never."""
        late = [(at, ok) for at, ok in self.returned if at >= trouble_ends]
        starts = [trouble_ends, *(at for at, ok in late if ok)]
        for start in starts:
            spell = [ok for at, ok in late if start <= at < start + SPELL]
            if spell and sum(spell) >= CALM * len(spell):
                return start - trouble_ends
        return None

    def strip(self, width: int, until: float) -> Sequence[tuple[int, int]]:
        """Successes and failures in `width` equal slices of the time up to `until`."""
        slices = [[0, 0] for _ in range(width)]
        for at, ok in self.returned:
            index = min(int(at / until * width), width - 1)
            slices[index][0 if ok else 1] += 1
        return [(good, bad) for good, bad in slices]
