"""Label values of metrics: words from fixed sets, and a bounded number of targets.

A label never holds free text of a user, a tenant or a provider: each new value is a new time series, and an unbounded
number of them would fill the memory of the process and of Prometheus. Tenants with limits are named in the settings,
and only the first MAX_TARGETS get labels.
"""

from collections.abc import Collection

from stormbreak.core.breaker_policy import State
from stormbreak.escape import LABEL, shown
from stormbreak.types import CACHE, DEGRADED, TARGET, Target, Verdict

OTHER = "other"
MAX_TARGETS = 100

VERDICTS = frozenset(verdict.value for verdict in Verdict)
STATES = tuple(state.value for state in State)
QUEUE_GATES = frozenset({"breaker", "cooldown", "limit", "pace", "queue", "quota", "rate", "spend"})
RETRY_GATES = frozenset(
    {
        "attempts", "breaker", "budget", "committed", "deadline", "forbidden", "max_wait", "patience",
        "repairs", "verdict",
    }
)  # fmt: skip
HEDGE_GATES = QUEUE_GATES | {"attempts", "budget", "deadline", "load"}
FALLBACK_GATES = frozenset({"attempts", "budget", "deadline", "nothing found"})
POLICIES = frozenset(
    {"breaker", "cooldown", "cost", "limit", "queue", "quota", "rate", "shed", "spend"}
)
TOKENS = ("input", "output", "cache_read", "cache_creation")
MECHANISMS = QUEUE_GATES | RETRY_GATES | {"retry"}
SHADOW_DECISIONS = frozenset(
    {
        "close", "isolated", "not_retry", "open", "probe", "refuse", "retry", "retry_later", "retry_sooner",
        "wait",
    }
)  # fmt: skip


def one_of(known: Collection[str], word: str | None) -> str:
    return str(word) if word is not None and word in known else OTHER


def kind_of(to: str) -> str:
    """Name the kind of a fallback: another "target", the "cache", or a "degraded" answer."""
    return to if to in (CACHE, DEGRADED) else TARGET


class Targets:
    """Labels for targets (and, by `label_of`, for tenants): provider and model, without the key. Targets beyond the first `maximum` are "other".

    Call it from any thread. It has no lock: a race adds at most one or two labels.
    """

    def __init__(self, maximum: int = MAX_TARGETS) -> None:
        self._maximum = maximum
        self._labels: dict[Target, str] = {}
        self._known: set[str] = set()

    def label(self, target: Target) -> str:
        label = self._labels.get(target)
        if label is None:
            label = self.label_of(target.place)
            if len(self._labels) < 10 * self._maximum:  # one model may have many keys
                self._labels[target] = label
        return label

    def label_of(self, place: str) -> str:
        """Return the label of a target, given its place (provider and model)."""
        label = shown(place, LABEL)
        if label not in self._known:
            if len(self._known) >= self._maximum:
                return OTHER
            self._known.add(label)
        return label
