"""What a run counts while it is at work, from the events of its client."""

from collections import Counter
from dataclasses import dataclass, field

from stormbreak.events import CallEnded, CircuitChanged, CooldownStarted, Event, Returned, Sent
from stormbreak.types import Usage, Verdict


@dataclass(slots=True)
class Counts:
    """Attempts of this run. Subscribe `hear` to a client."""

    attempts: int = 0
    retries: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)  # of attempts that came back
    circuits_opened: int = 0
    cooldowns: int = 0
    waited: float = 0.0  # seconds, over all calls
    input_tokens: int = 0
    output_tokens: int = 0
    heard_http: bool = False  # something has answered in HTTP
    trouble: str = ""  # of the last attempt that found no HTTP server

    def hear(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, Sent):
            self.attempts += 1
            self.retries += event.attempt > 1
        elif isinstance(event, Returned):
            self.verdicts[event.verdict.value] += 1
            self.heard_http |= event.status is not None
            if event.status is None and event.verdict is not Verdict.CANCELLED:
                self.trouble = event.verdict.value
        elif isinstance(event, CallEnded):
            self.waited += event.waited
        elif isinstance(event, CircuitChanged):
            self.circuits_opened += event.after == "open"
        elif isinstance(event, CooldownStarted):
            self.cooldowns += 1

    def add(self, usage: Usage) -> None:
        """Count the tokens of one answer."""
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
