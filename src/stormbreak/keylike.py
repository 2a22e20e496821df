"""What looks like an API key: one rule for all who quote a name that somebody gave.

Whatever this lets pass may be quoted by an error, so it is stricter than a scanner of source code would be.
"""

import re

_FAMILIAR = re.compile(
    r"\b((sk|pk|rk|hs|gsk|csk|xai|hf|r8|ghp|pplx|nvapi)[-_][\w-]{8,}"
    r"|AIza[\w-]{10,}|AKIA[A-Z0-9]{12,}|Bearer\s+\S{8,})"
)
_TOKEN = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[\w+/=.-]{16,}", re.ASCII)


def is_familiar(text: str) -> bool:
    """Whether `text` holds a key of a familiar form."""
    return _FAMILIAR.search(text) is not None


def is_token(word: str) -> bool:
    """Whether a word, as a whole, looks like a secret."""
    return _TOKEN.fullmatch(word) is not None


def holds_token(text: str) -> bool:
    """Whether a word of `text` looks like a secret."""
    return any(map(is_token, re.split(r"[\s'\"`]", text)))


def looks_like_key(text: str) -> bool:
    """Whether `text` is better not repeated."""
    return is_familiar(text) or holds_token(text)


def quoted(name: str) -> str:
    """A name in quotes; of a key, only that it looks like one."""
    return "what looks like a key, not like a name" if looks_like_key(name) else repr(name)
