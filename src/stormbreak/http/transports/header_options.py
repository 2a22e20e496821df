"""What a request says in headers of its own of how it is to be treated: a scope for this request alone.

`x-stormbreak-priority` (interactive, batch or background), `x-stormbreak-deadline` (seconds from when the request comes),
`x-stormbreak-tenant`, `x-stormbreak-label-NAME`, `x-stormbreak-retries`. They are left out of what is sent.
"""

import re
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from stormbreak.drivers.scope import Scope, checked_labels, checked_text, current
from stormbreak.errors import ConfigurationError
from stormbreak.http.transports.sdk_request import OURS
from stormbreak.key_patterns import quoted
from stormbreak.types import Priority

R = TypeVar("R")

_LABEL = "label-"
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_COUNT = re.compile(r"[0-9]{1,9}")
_PRIORITIES = {priority.name.lower(): priority for priority in Priority}
_KNOWN = ("priority", "deadline", "tenant", "label-NAME", "retries")


def scope_from_headers(headers: Mapping[str, str]) -> Scope:
    """What holds for a request with these headers, their names in lower case: what it says goes before the scope here.

    Raises:
        ConfigurationError: names a header that is none of ours, or whose value cannot be right.
    """
    if OURS not in "\n".join(headers):  # quicker than to look at each name
        return current()
    said = {name[len(OURS) :]: value for name, value in headers.items() if name.startswith(OURS)}
    labels = {name[len(_LABEL) :]: said.pop(name) for name in [*said] if name.startswith(_LABEL)}
    own = Scope(
        _taken(said, "deadline", _deadline_at),
        _taken(said, "priority", _priority),
        _taken(said, "tenant", lambda text: checked_text(f"{OURS}tenant", text)),
        checked_labels(labels),
        _taken(said, "retries", _retries),
    )
    for name in said:
        known = ", ".join(OURS + each for each in _KNOWN)
        raise ConfigurationError(f"no header is called {quoted(OURS + name)}; there are {known}")
    return current().around(own)


def _taken(said: dict[str, str], name: str, read: Callable[[str], R]) -> R | None:
    text = said.pop(name, None)
    return None if text is None else read(text)


def _deadline_at(text: str) -> float:
    if _SECONDS.fullmatch(text) is None:
        raise _wrong("deadline", "seconds, such as 30 or 2.5", text)
    return time.monotonic() + float(text)


def _priority(text: str) -> Priority:
    priority = _PRIORITIES.get(text.lower())
    if priority is None:
        raise _wrong("priority", f"one of {', '.join(_PRIORITIES)}", text)
    return priority


def _retries(text: str) -> int:
    if _COUNT.fullmatch(text) is None:
        raise _wrong("retries", "a whole number, 0 or more", text)
    return int(text)


def _wrong(name: str, rule: str, text: str) -> ConfigurationError:
    return ConfigurationError(f"{OURS}{name} must be {rule}, got {quoted(text)}")
