"""How a call says what was tried when it ends with the user's own exception: notes, a story for `explain`, and a word to calls outside."""

from contextlib import suppress

from stormbreak.around.nesting import innermost, record_given_up
from stormbreak.core.tried import notes_of
from stormbreak.http.doors.story import KEPT_AS, AttemptHistory
from stormbreak.types import CallResult, Target

_MAX_NOTES = 64  # on one exception: some raise the same object again and again


class FunctionHistory(AttemptHistory):
    """That of a call around a function."""


def tell(error: BaseException, target: Target, ended: CallResult) -> None:
    """Have `error`, with which a call ends, tell what was tried, if a retry was made or refused by a gate."""
    refused = record_given_up(ended)
    if ended.attempts == 1 and not refused:
        return
    with suppress(
        Exception
    ):  # one that takes no attributes, such as a frozen dataclass: it is to be raised, not ours
        _note(error, ended, refused=refused)
    # Without what came of it: an exception that holds itself is freed late.
    bare = ended._replace(outcome=ended.outcome._replace(error=None, value=None))
    with suppress(Exception):
        setattr(error, KEPT_AS, FunctionHistory(target, bare))


def _note(error: BaseException, ended: CallResult, *, refused: bool) -> None:
    if len(getattr(error, "__notes__", ())) >= _MAX_NOTES:
        return
    for line in notes_of(ended):
        error.add_note(line)
    if refused:
        error.add_note(f"no further retry: {ended.stopped}")


def give_up(error: BaseException) -> None:
    """Tell the attempt that is under way around this call that `error` was retried for as long as it could be."""
    outer = innermost()
    if outer is not None:
        outer.given_up = error
