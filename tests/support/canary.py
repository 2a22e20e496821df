"""A key and a prompt that are easy to find in any output, and functions that search for them."""

import logging
import traceback
from contextlib import contextmanager

KEY = "canary.key.Zx81qL0v"  # looks like an identifier, which a weak filter would not redact
PROMPT = "canaryprompt what is our secret plan"
WORD = PROMPT.split(maxsplit=1)[0]
CANARIES = (KEY, KEY.lower(), WORD, f"Bearer {KEY}")
SHOW_KEYS = ("authorization", "x-api-key", "api-key")


@contextmanager
def everything_logged_to(path):
    """Log every logger at DEBUG into a file."""
    handler = logging.FileHandler(path)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield path
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()


def shown_by(error):
    """All texts of an error of a call, in every form in which errors are shown."""
    ended = error.ended
    parts = [str(error), repr(error), repr(error.args), repr(ended), str(ended.outcome)]
    parts += [repr(vars(error)), repr(ended.outcome.value), repr(ended.outcome.error)]
    parts += [repr(error.code), repr(error.__cause__), repr(error.__context__)]
    for chain in (True, False):
        parts += traceback.format_exception(error, chain=chain)
    return "\n".join(parts)


def assert_clean(text, where, canaries=CANARIES):
    """Check that the text contains no canary."""
    for canary in canaries:
        at = text.find(canary)
        assert at < 0, f"{canary} in {where}: {text[max(0, at - 300) : at + 100]}"
