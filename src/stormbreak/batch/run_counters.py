"""What a run counts while it is at work, from the events of its client."""

from collections import Counter
from dataclasses import dataclass, field

from stormbreak.batch.running.failure_reasons import FailureReasons
from stormbreak.events import (
    CallEnded,
    CircuitChanged,
    CooldownStarted,
    Event,
    Hedged,
    Queued,
    RetryPlanned,
    Returned,
    Sent,
)
from stormbreak.types import Outcome, Usage, Verdict

_REACHED_NOTHING = frozenset({Verdict.CONNECT_FAILED, Verdict.RESET, Verdict.BROKEN})


@dataclass(slots=True)
class Counts:
    """Attempts of this run. Feed `hear` the events of a client."""

    attempts: int = 0
    retries: int = 0
    maybe_processed: int = 0  # attempts that may have been billed, besides the answers
    verdicts: Counter[str] = field(default_factory=Counter)  # of attempts that came back
    circuits_opened: int = 0
    cooldowns: int = 0
    waited: float = 0.0  # seconds, over all calls
    input_tokens: int = 0
    output_tokens: int = 0
    last_trouble: Returned | None = None  # the last attempt that came back without an answer
    reasons: FailureReasons = field(default_factory=FailureReasons)  # of rows that failed
    trouble: str = ""  # of the last attempt that found no HTTP server
    _connected: bool = False  # something speaks HTTP there, or took a request and kept silent
    _sent: dict[int, float] = field(default_factory=dict)  # by call: when its attempt left
    _backing_off: set[int] = field(default_factory=set)  # numbers of calls

    @property
    def backing_off(self) -> int:
        """Calls that wait to be sent again."""
        return len(self._backing_off)

    @property
    def unreachable(self) -> bool:
        """Whether attempts have failed, and nothing has spoken HTTP. A first answer may take its time."""
        return bool(self.trouble) and not self._connected

    def silent_since(self, now: float) -> float:
        """Seconds since the oldest attempt left that has not come back; 0 where there is none."""
        return now - min(self._sent.values(), default=now)

    def hear(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, Sent):
            self.attempts += 1
            self._sent[event.call] = event.at
            self.retries += event.attempt > 1
            self._backing_off.discard(event.call)
        elif isinstance(event, Hedged):
            self.retries -= 1  # what is sent next is none
        elif isinstance(event, Returned):
            self._returned(event)
        elif isinstance(event, CallEnded):
            self.waited += event.waited
            self.maybe_processed += event.maybe_processed
            self._sent.pop(event.call, None)
            self._backing_off.discard(event.call)
        elif isinstance(event, RetryPlanned):
            self._backing_off.add(event.call)
        elif isinstance(event, Queued):
            self._backing_off.discard(event.call)
        elif isinstance(event, CircuitChanged):
            self.circuits_opened += event.after == "open"
        elif isinstance(event, CooldownStarted):
            self.cooldowns += 1

    def explain(self, outcome: Outcome) -> None:
        """Learn from the last outcome of a call why nothing was reached, in more words than an event has."""
        if outcome.status is None and outcome.verdict in _REACHED_NOTHING and outcome.detail:
            self.trouble = outcome.detail

    def add(self, usage: Usage) -> None:
        """Count the tokens of one answer."""
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens

    def _returned(self, event: Returned) -> None:
        self._sent.pop(event.call, None)
        self.verdicts[event.verdict.value] += 1
        if event.verdict is not Verdict.OK:
            self.last_trouble = event
        if event.status is not None or event.verdict is Verdict.TIMEOUT:
            self._connected = True
        elif event.verdict in _REACHED_NOTHING or event.verdict is Verdict.REJECTED:
            self.trouble = event.detail or event.verdict.value.replace("_", " ")
