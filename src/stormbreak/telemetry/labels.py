"""What labels of metrics may say: words of fixed sets, and a bounded number of targets.

A label never holds what a user, a tenant or a provider wrote freely: each new value is a new series for as long as the
process lives, and whoever can make values up could fill the memory of whoever keeps them.
"""

from collections.abc import Collection

from stormbreak.core.circuit import State
from stormbreak.escape import tame
from stormbreak.types import CACHE, DEGRADED, TARGET, Target, Verdict

OTHER = "other"
MOST_TARGETS = 100

VERDICTS = frozenset(verdict.value for verdict in Verdict)
STATES = tuple(state.value for state in State)
QUEUE_GATES = frozenset({"breaker", "cooldown", "limit", "pace", "queue", "quota", "rate", "spend"})
RETRY_GATES = frozenset(
    {
        "attempts",
        "breaker",
        "budget",
        "committed",
        "deadline",
        "forbidden",
        "max_wait",
        "patience",
        "verdict",
    }
)
HEDGE_GATES = QUEUE_GATES | {"attempts", "budget", "deadline", "load"}
FALLBACK_GATES = frozenset({"attempts", "budget", "deadline", "nothing found"})
POLICIES = frozenset(
    {"breaker", "cooldown", "cost", "limit", "queue", "quota", "rate", "shed", "spend"}
)
TOKENS = ("input", "output", "cached", "written")
PLACES = (CACHE, DEGRADED)
MECHANISMS = QUEUE_GATES | RETRY_GATES | {"retry"}
DIFFERENCES = frozenset(
    {
        "close",
        "isolated",
        "not_retry",
        "open",
        "probe",
        "refuse",
        "retry",
        "retry_later",
        "retry_sooner",
        "wait",
    }
)


def one_of(known: Collection[str], word: str | None) -> str:
    """The word if it is one of the `known`, or else "other"."""
    return (
        str(word) if word is not None and word in known else OTHER
    )  # a verdict is more than a text


def kind_of(to: str) -> str:
    """What a call falls back to: another "target", or the "cache" or "degraded" answer at hand."""
    return to if to in PLACES else TARGET


class Targets:
    """Labels for targets: their provider and model, without the key; beyond the first so many, all are "other".

    From any thread: there is no lock, for the worst that can happen is a label or two more.
    """

    def __init__(self, most: int = MOST_TARGETS) -> None:
        self._most = most
        self._labels: dict[Target, str] = {}
        self._known: set[str] = set()

    def label(self, target: Target) -> str:
        """The label of a target."""
        label = self._labels.get(target)
        if label is None:
            label = self.label_of(target.place)
            if len(self._labels) < 10 * self._most:  # the same model may come with many keys
                self._labels[target] = label
        return label

    def label_of(self, place: str) -> str:
        """The label of a target that is known by its place."""
        label = tame(place)
        if label not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(label)
        return label
