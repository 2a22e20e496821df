"""Recognise API keys by their form, before a name is quoted in a message.

`http/redact.py` removes known texts from a provider's messages: a client's own key, and the text of its request.
Messages may quote any text that passes here, so it is stricter than a source code scanner.
"""

import re

_HIDDEN = "(what looks like a key)"
_FAMILIAR = re.compile(
    r"\b((sk|pk|rk|hs|sb|gsk|csk|xai|hf|r8|ghp|pplx|nvapi)[-_][\w-]{8,}"
    r"|AIza[\w-]{10,}|AKIA[A-Z0-9]{12,}|Bearer\s+\S{8,}|(?i:(x-)?api-key:)\s*[\w-]{16,})"
)
_IN_ANY_CASE = re.compile(_FAMILIAR.pattern, re.IGNORECASE)
_SECRET_NAME = re.compile(r"(key|secret|token|password|authorization|bearer|credentials?)s?$")
_CONSTANT = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", re.ASCII)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # a valid name of an environment variable
_MAX_SHOWN = 60  # characters of a name
_MIN_SECRET = 8
_LONG_SECRET = 16  # length from which even plain words count as a secret
_MIN_CHARACTERS = 5  # minimum of different characters; less is filler such as xxxxxxxx
_PLAIN_WORDS = re.compile(r"[A-Za-z]?[a-z]*([-_. ][A-Za-z]?[a-z]*)*|[A-Z]+([-_. ][A-Z]+)*")
_UNQUOTED = "what looks like a key, not like a name"
_PARTS = re.compile(r"[-./:@\s]")
_TOKEN = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[\w+/=.-]{16,}", re.ASCII)


def has_key_prefix(text: str, *, any_case: bool = False) -> bool:
    """Whether `text` contains a key with a known prefix, in any case with `any_case`, as in hosts."""
    return (_IN_ANY_CASE if any_case else _FAMILIAR).search(text) is not None


def is_token(word: str) -> bool:
    """Whether a word, as a whole, looks like a secret."""
    return _TOKEN.fullmatch(word) is not None


def may_be_secret(key: str) -> bool:
    """Whether an API key must be hidden: it has a known prefix, is long, or is not a plain word.

    Local servers accept any key, and their guides use `anything`, `not-needed` or `sk-1234`: such words also occur in
    unrelated texts.
    """
    if len(key) < _MIN_SECRET:
        return False
    if has_key_prefix(key):
        return True
    if len(set(key)) < _MIN_CHARACTERS:
        return False
    return len(key) >= _LONG_SECRET or _PLAIN_WORDS.fullmatch(key) is None


def holds_token(text: str) -> bool:
    """Whether a word of `text` looks like a secret."""
    return any(map(is_token, re.split(r"[\s'\"`]", text)))


def looks_like_key(text: str) -> bool:
    """Whether `text` must not be repeated."""
    return has_key_prefix(text) or holds_token(text)


def is_constant(word: str) -> bool:
    """Whether a word looks like the name of an environment variable, and so is not a key."""
    return _CONSTANT.fullmatch(word) is not None


def is_secret_name(name: str) -> bool:
    """Whether a name shows that its value is a secret."""
    return _SECRET_NAME.search(name.lower()) is not None


def quoted(name: str) -> str:
    """Quote a name, shortened if long; for a key, say only that it looks like one."""
    return _UNQUOTED if looks_like_key(name) else _in_quotes(name)


def quote_model(name: str) -> str:
    """Quote the name of a model, a provider or both: only their parts are checked for keys."""
    secret = has_key_prefix(name) or any(map(is_token, _PARTS.split(name)))
    return _UNQUOTED if secret else _in_quotes(name)


def _in_quotes(name: str) -> str:
    return repr(name) if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]!r}..."


def holds_hidden(line: str) -> bool:
    """Whether `hidden` has replaced a key in it."""
    return _HIDDEN in line


def hidden(line: str, *, tokens: bool = False) -> str:
    """Hide keys with a known prefix; with `tokens`, also words that look like a secret."""
    line = _FAMILIAR.sub(_HIDDEN, line)
    if not tokens:
        return line
    words = re.split(r"([\s'\"`:,;()]+)", line)
    return "".join(_HIDDEN if is_token(word) else word for word in words)
