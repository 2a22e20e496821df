"""Why rows failed: the provider's code and message, safe to print; and rows held after an account error.

The body that comes in here has lost the key and the texts of its request already (`http.redact`). A message is printed to
terminals and logs, where a body never goes, so more is left out here: what looks like a key, masked or not, and whatever is
quoted from the request, or repeats three words of it.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from msgspec import DecodeError
from msgspec.json import decode

from stormbreak.core.row_schedule import PROBE_ROWS
from stormbreak.escape import plain
from stormbreak.key_patterns import hidden
from stormbreak.types import Outcome, Target, Verdict

KINDS = 40  # reasons that are counted one by one; what comes later is not counted
LONGEST = 300  # characters of a message

_KEPT = 64 * 2**10  # bytes of a body that is looked at
_GONE = "[...]"
_MASKED = re.compile(r"\S*(?:\*\*|••|x{6}|X{6})\S*")
_MODEL = re.compile(rb'"model"\s*:\s*"[^"]*"')
_QUOTED = re.compile(
    r"'([^']+)'|\"([^\"]+)\"|`([^`]+)`|\u2018([^\u2019]+)\u2019|\u201c([^\u201d]+)\u201d"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """What `rows` failed for; `message` is that of one of them, empty where the provider gave none."""

    verdict: Verdict
    status: int | None
    code: str | None
    message: str
    rows: int

    def __str__(self) -> str:
        known = " ".join(str(part) for part in (self.status, self.code) if part)
        return ": ".join(part for part in (known, self.message) if part)


class FailureReasons:
    """Counts rows by verdict, status and code, and keeps a message of each."""

    def __init__(self) -> None:
        self._counted: Counter[tuple[Verdict, int | None, str | None]] = Counter()
        self._messages: dict[tuple[Verdict, int | None, str | None], str] = {}

    def add(self, outcome: Outcome, body: bytes, asked: bytes) -> None:
        """Count a row that failed with `outcome`, whose answer has this `body`; `asked` is the body of the request."""
        kind = (outcome.verdict, outcome.status, outcome.code)
        if kind not in self._counted and len(self._counted) >= KINDS:
            return
        self._counted[kind] += 1
        if not self._messages.get(kind):
            self._messages[kind] = message_in(body, asked) or plain(outcome.detail or "", LONGEST)

    def most(self, verdict: Verdict | None = None) -> Reason | None:
        """The most frequent reason, or that with this verdict; None where nothing failed for it."""
        for kind, rows in self._counted.most_common():
            found, status, code = kind
            if verdict is None or found is verdict:
                message = self._messages[kind]
                return Reason(verdict=found, status=status, code=code, message=message, rows=rows)
        return None


def message_in(body: bytes, asked: bytes) -> str:
    """The message of the error in `body`, fit to be printed; empty where there is none."""
    if len(body) > _KEPT:
        return ""
    try:
        said = decode(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    asked = _MODEL.sub(b"", asked)  # no secret, and often the reason
    message = " ".join(_message(said)[: 4 * LONGEST].split())
    message = _MASKED.sub(_GONE, message)
    message = _QUOTED.sub(lambda quote: _unless_asked(quote, asked), message)
    message = " ".join(_without_phrases(message.split(" "), asked))
    return plain(hidden(message, tokens=True), LONGEST)


def _message(said: Any, deeper: int = 4) -> str:
    """Find the message of an error, as the APIs nest it."""
    if isinstance(said, str):
        return said
    if isinstance(said, list):
        said = said[0] if said else None
    if not isinstance(said, dict) or not deeper:
        return ""
    for key in ("error", "errors", "message", "detail", "msg"):
        found = _message(said.get(key), deeper - 1)
        if found:
            return found
    return ""


def _unless_asked(quote: re.Match[str], asked: bytes) -> str:
    """A quotation, unless it repeats what is asked: names of fields are no secrets."""
    inner = next(filter(None, quote.groups()))
    return quote[0].replace(inner, _GONE) if _repeats(inner, asked) else quote[0]


def _without_phrases(words: list[str], asked: bytes) -> list[str]:
    """Drop three words in a row, or more, that stand in the request like that."""
    shown = list(words)
    for start in range(len(words) - 2):
        phrase = slice(start, start + 3)
        if _repeats(" ".join(words[phrase]), asked):
            shown[phrase] = [_GONE] * 3
    pairs = zip(shown, ["", *shown], strict=False)
    return [word for word, before in pairs if word != _GONE or before != _GONE]


def _repeats(text: str, asked: bytes) -> bool:
    """Whether `text` stands in the request, other than as the name of a field."""
    found = text.encode()
    return asked.count(found) > len(re.findall(rb'"%b"\s*:' % re.escape(found), asked))


# ---------------------------------------------------------------- account errors
# Pure. In the middle of a run, a final verdict about the account (a revoked key, used-up credit)
# says nothing about the row. `AccountErrors` holds such rows until the account answers again. When
# it holds `PROBE_ROWS` of them, no fresh row is sent until all calls that were sent since the first
# refusal have ended; without an answer among them the run stops, and the next run sends these rows
# again.

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
