"""Rows that were refused for the account they were sent with. Pure.

In the middle of a run, a final verdict about the account (a revoked key, used-up credit) says nothing about the row. `AccountErrors` holds
such rows until the account answers again. When it holds `PROBE_ROWS` of them, no fresh row is sent until all calls that were sent since the
first refusal have ended; without an answer among them the run stops, and the next run sends these rows again.
"""

from typing import Generic, NamedTuple, TypeVar

from stormbreak.core.schedule import PROBE_ROWS
from stormbreak.types import Target, Verdict

ACCOUNT = frozenset({Verdict.AUTH, Verdict.BILLING})
"""Final verdicts about the account, which stop a run at any time."""

_SERVED = frozenset(
    {Verdict.OK, Verdict.TOO_LONG, Verdict.FILTERED}
)  # the account has been accepted

Held = TypeVar("Held")


class SuspectAccount(NamedTuple):
    """An account that may not work any more."""

    since: float  # the first refusal
    verdict: Verdict
    is_tried: bool  # enough calls were sent since, and refused, to stop for it


class AccountErrors(Generic[Held]):
    """Rows that were refused for the account they were sent with, since it last gave an answer.

    Of several accounts, such as that of a fallback, each has its own. An answer shows that the account works only if its
    call was sent after the first refusal: answers to earlier calls may still come long after a key is revoked.
    """

    def __init__(self) -> None:
        self._since: dict[Target, float] = {}
        self._held: dict[Target, list[tuple[Verdict, Held]]] = {}
        self._sent_since: dict[Target, int] = {}  # refusals of calls that were sent since the first

    def note(
        self,
        target: Target | None,
        verdict: Verdict,
        held: Held | None,
        *,
        sent_at: float,
        now: float,
    ) -> list[Held]:
        """Take note of a row that is over; return the rows whose failure is certain now, in their order.

        A row that was refused is `held`; one that was answered has nothing to hold. Its last attempt left at `sent_at` or later.
        """
        if target is None or (held is None and not self._since):  # nearly always
            return []
        account = target.account
        if held is not None and verdict in ACCOUNT:
            since = self._since.setdefault(account, now)
            if sent_at >= since:
                self._sent_since[account] = self._sent_since.get(account, 0) + 1
            self._held.setdefault(account, []).append((verdict, held))
            return []
        if verdict in _SERVED and sent_at >= self._since.get(account, float("inf")):
            del self._since[account]
            self._sent_since.pop(account, None)
            return [row for _, row in self._held.pop(account)]
        return []

    def release(self) -> list[Held]:
        """Return all rows that are held: nothing more will tell about their accounts."""
        held = [row for rows in self._held.values() for _, row in rows]
        self._held.clear()
        self._since.clear()
        self._sent_since.clear()
        return held

    @property
    def doubt(self) -> SuspectAccount | None:
        """The account that has refused enough rows in a row, if there is one."""
        for account, held in self._held.items():
            if len(held) >= PROBE_ROWS:
                enough = self._sent_since.get(account, 0) >= PROBE_ROWS // 2
                return SuspectAccount(self._since[account], held[-1][0], enough)
        return None
