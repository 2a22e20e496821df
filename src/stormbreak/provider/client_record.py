"""The provider's record of its clients: answers for each request, and retries that came too early.

The digest of its body identifies a request. A promise is the wait that a response named, on the monotonic clock, from
the time when the response was written.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from stormbreak.provider.fault_kinds import WaitForm

_EXAMPLES_KEPT = 20


@dataclass(slots=True, eq=False)
class Record:
    """One request body through all its attempts."""

    attempts: int = 0
    answers: int = 0
    wait_promised_until: float = 0.0
    promised_on: int = 0


class EarlyReturn(NamedTuple):
    """An attempt before the time that the response to the previous one named."""

    key: str
    by: float  # seconds
    promised_on: int  # the connection that carried the promise
    arrived_on: int  # the connection that carried the attempt


class ClientRecord:
    """Counts attempts and answers in one run of a scenario."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self._others: dict[str, Record] = {}  # of requests about files and batches
        self.statuses: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.early = 0
        self._early_examples: list[EarlyReturn] = []
        self._idempotency: Counter[bytes] = Counter()

    def record_attempt(
        self,
        digest: str,
        now: float,
        connection: int,
        idempotency: bytes | None,
        *,
        is_call: bool = True,
    ) -> Record:
        """Record an attempt, and whether it came before the promised time; `is_call`: a model answers it."""
        records = self.records if is_call else self._others
        record = records.get(digest)
        if record is None:
            record = records[digest] = Record()
        record.attempts += 1
        if now < record.wait_promised_until:
            self.early += 1
            if len(self._early_examples) < _EXAMPLES_KEPT:
                by = round(record.wait_promised_until - now, 6)
                self._early_examples.append(EarlyReturn(digest, by, record.promised_on, connection))
        if idempotency is not None:
            self._idempotency[idempotency] += 1
        return record

    def promised(self, record: Record, until: float, form: WaitForm, connection: int) -> None:
        self.waits[form.value] += 1
        record.wait_promised_until = until
        record.promised_on = connection

    def summary(self) -> dict[str, Any]:
        records = self.records.values()
        return {
            "answers": dict(self.statuses),
            "faults": dict(self.faults),
            "retry_after": dict(self.waits),
            "early": self.early,
            "early_examples": [example._asdict() for example in self._early_examples],
            "keys": {
                "asked": len(records),
                "answered": sum(record.answers > 0 for record in records),
                "answered_twice": sum(record.answers > 1 for record in records),
                "answers": sum(record.answers for record in records),
                "max_attempts": max((record.attempts for record in records), default=0),
            },
            "idempotency": {
                "keys": len(self._idempotency),
                "repeats": self._idempotency.total() - len(self._idempotency),
            },
        }
