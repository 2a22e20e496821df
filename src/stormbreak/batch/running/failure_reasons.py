"""Why rows failed: the provider's code and message, safe to print; the record of a failure; rows held for an account error.

`http.redact` has already removed the key and the texts of the request from a body. Messages go to terminals and logs,
unlike bodies, so this module removes more: text that looks like a key, masked or not, and text that quotes the request
or repeats three words of it.
"""

import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from msgspec import DecodeError
from msgspec.json import decode

from stormbreak.batch.store.output_line import Failure
from stormbreak.core.row_schedule import PROBE_ROWS, Final, waits_too_long
from stormbreak.escape import plain
from stormbreak.events import Returned
from stormbreak.hidden_keys import hidden
from stormbreak.types import FALLBACK, TARGET, CallResult, Outcome, Target, Verdict

KINDS = 40  # maximum number of reasons that are counted
LONGEST = 300  # characters of a message

_MAX_BODY = 64 * 2**10  # bytes of a body that is searched
_GONE = "[...]"
_MASKED = re.compile(r"\S*(?:\*\*|••|x{6}|X{6})\S*")
_MODEL = re.compile(rb'"model"\s*:\s*"[^"]*"')
_QUOTED = re.compile(
    r"'([^']+)'|\"([^\"]+)\"|`([^`]+)`|\u2018([^\u2019]+)\u2019|\u201c([^\u201d]+)\u201d"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """The reason of `rows` failures; `message` is that of one of them, empty if the provider gave none.

    `retry_at` is the end of the longest wait that was too long for a row, in unix seconds.
    """

    verdict: Verdict
    status: int | None
    code: str | None
    message: str
    rows: int
    retry_at: float | None = None

    def __str__(self) -> str:
        known = " ".join(str(part) for part in (self.status, self.code) if part)
        return ": ".join(part for part in (known, self.message) if part)


class FailureReasons:
    """Counts rows by verdict, status and code, and keeps a message of each."""

    def __init__(self) -> None:
        self._counted: Counter[tuple[Verdict, int | None, str | None]] = Counter()
        self._messages: dict[tuple[Verdict, int | None, str | None], str] = {}
        self._retry_at: dict[tuple[Verdict, int | None, str | None], float] = {}

    def add(
        self, outcome: Outcome, body: bytes, request: bytes, *, retry_at: float | None = None
    ) -> None:
        """Count a row that failed with `outcome`, by the bodies of its response and its request.

        `retry_at` is the end of a wait that was too long for the row, in unix seconds.
        """
        kind = (outcome.verdict, outcome.status, outcome.code)
        if kind not in self._counted and len(self._counted) >= KINDS:
            return
        self._counted[kind] += 1
        if retry_at is not None:
            self._retry_at[kind] = max(retry_at, self._retry_at.get(kind, 0.0))
        if not self._messages.get(kind):
            self._messages[kind] = message_in(body, request) or plain(outcome.detail or "", LONGEST)

    def merge(self, other: "FailureReasons") -> None:
        self._counted.update(other._counted)  # noqa: SLF001 - of this very class
        for kind, message in other._messages.items():  # noqa: SLF001
            self._messages[kind] = self._messages.get(kind) or message
        for kind, retry_at in other._retry_at.items():  # noqa: SLF001
            self._retry_at[kind] = max(retry_at, self._retry_at.get(kind, 0.0))

    def most_frequent(self, verdict: Verdict | None = None) -> Reason | None:
        """Return the most frequent reason, of this verdict if one is given; None without failures."""
        for kind, rows in self._counted.most_common():
            found, status, code = kind
            if verdict is None or found is verdict:
                return Reason(
                    verdict=found,
                    status=status,
                    code=code,
                    message=self._messages[kind],
                    rows=rows,
                    retry_at=self._retry_at.get(kind),
                )
        return None


def message_in(body: bytes, request: bytes) -> str:
    """Return the message of the error in `body`, safe to print; empty if there is none."""
    if len(body) > _MAX_BODY:
        return ""
    try:
        content = decode(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    request = _MODEL.sub(b"", request)  # not a secret, and often the reason
    message = " ".join(_message(content)[: 4 * LONGEST].split())
    message = _MASKED.sub(_GONE, message)
    message = _QUOTED.sub(lambda quote: _without_quote(quote, request), message)
    message = " ".join(_without_phrases(message.split(" "), request))
    return plain(hidden(message, tokens=True), LONGEST)


def _message(content: Any, levels: int = 4) -> str:
    """Find the message of an error, as the APIs nest it."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        content = content[0] if content else None
    if not isinstance(content, dict) or not levels:
        return ""
    for key in ("error", "errors", "message", "detail", "msg"):
        found = _message(content.get(key), levels - 1)
        if found:
            return found
    return ""


def _without_quote(quote: re.Match[str], request: bytes) -> str:
    """Empty a quotation that repeats the request; names of fields are not secret."""
    inner = next(filter(None, quote.groups()))
    return quote[0].replace(inner, _GONE) if _repeats(inner, request) else quote[0]


def _without_phrases(words: list[str], request: bytes) -> list[str]:
    """Drop three or more consecutive words that are also consecutive in the request."""
    shown = list(words)
    for start in range(len(words) - 2):
        phrase = slice(start, start + 3)
        if _repeats(" ".join(words[phrase]), request):
            shown[phrase] = [_GONE] * 3
    pairs = zip(shown, ["", *shown], strict=False)
    return [word for word, before in pairs if word != _GONE or before != _GONE]


def _repeats(text: str, request: bytes) -> bool:
    """Whether `text` is in the request, other than as the name of a field."""
    found = text.encode()
    return request.count(found) > len(re.findall(rb'"%b"\s*:' % re.escape(found), request))


def failure_of(ended: CallResult, fate: Final, now: float) -> Failure:
    """Explain a row that failed, in stormbreak's own words. `now` is the monotonic clock."""
    outcome = ended.outcome
    parts = [outcome.verdict.value]
    parts += [f"status {outcome.status}"] if outcome.status else []
    parts += [outcome.detail] if outcome.detail else []
    parts += [outcome.rejection.text] if outcome.rejection else []
    if waits_too_long(ended, now):
        parts.append("it must wait for more than a day, which is too long for a row")
    elif ended.stopped:
        parts.append(f"no further retry: {ended.stopped}")
    return Failure(
        code=outcome.code or outcome.verdict.value,
        message="; ".join(parts),
        verdict=outcome.verdict,
        attempts=fate.attempts,
        maybe_processed=fate.maybe_processed,
        retry_at=None if ended.retry_at is None else time.time() + ended.retry_at - now,
    )


# ---------------------------------------------------------------- account errors
# In the middle of a run, a final verdict about the account (a revoked key, used-up credit) says nothing about the row.
# `AccountErrors` holds such rows until the account answers again. When it holds `PROBE_ROWS` of them, no fresh row is
# sent until all calls sent since the first refusal have ended. If none of them was answered, the run stops, and the
# next run sends these rows again. If fewer than half of `PROBE_ROWS` calls were sent since, that is too little
# evidence: fresh rows are sent one at a time until it is enough.

ACCOUNT = frozenset({Verdict.AUTH, Verdict.BILLING})
"""Final verdicts about the account, which stop a run at any time."""

# the account was accepted
_SERVED = frozenset({Verdict.OK, Verdict.TOO_LONG, Verdict.FILTERED, Verdict.SCHEMA_MISMATCH})

Held = TypeVar("Held")


class SuspectAccount(NamedTuple):
    """An account that may not work any more."""

    since: float  # the first refusal
    verdict: Verdict
    is_tried: bool  # enough calls sent since were refused to stop the run


def account_verdict(ended: CallResult) -> tuple[Target | None, Verdict]:
    """The evidence of a call about an account: the target, and its last verdict or an earlier refusal by a fallback."""
    verdict = ended.outcome.verdict
    if verdict is not Verdict.OK and verdict not in ACCOUNT:
        for event in ended.history:
            if isinstance(event, Returned) and event.verdict in ACCOUNT:
                return event.target, event.verdict
    return ended.target if ended.source in (TARGET, FALLBACK) else None, verdict


class AccountErrors(Generic[Held]):
    """Holds the rows that were refused because of an account, by account, until it answers.

    An answer shows that the account works only if its call was sent after the first refusal: answers to earlier calls
    may still arrive long after a key is revoked.
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
        """Count a finished row; return the held rows whose failure is now certain, in order.

        `held` is the failed row, None for an answered one. Its last attempt was sent at `sent_at` or later.
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
        held = [row for rows in self._held.values() for _, row in rows]
        self._held.clear()
        self._since.clear()
        self._sent_since.clear()
        return held

    @property
    def suspect(self) -> SuspectAccount | None:
        """Return the account that has refused enough consecutive rows, if any."""
        for account, held in self._held.items():
            if len(held) >= PROBE_ROWS:
                enough = self._sent_since.get(account, 0) >= PROBE_ROWS // 2
                return SuspectAccount(self._since[account], held[-1][0], enough)
        return None
