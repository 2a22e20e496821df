"""TOML files that people write, policies and scenarios: read whole but not at any size, and parsed.

Whatever is wrong is one `ConfigurationError` without the name of the file, which callers put before it. A file that
holds a familiar API key is refused, and the key is never repeated: such files are shared and kept.
"""

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stormbreak.errors import ConfigurationError
from stormbreak.keylike import holds_token, is_familiar

LARGEST = 1024 * 1024  # bytes

Table = dict[str, Any]


def read_text(path: str | os.PathLike[str], *, what: str) -> str:
    """The text of the file; `what` it is, in the words of a message."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}") from None
    except ValueError:  # a null character
        raise ConfigurationError("cannot be read: not a file name") from None
    if len(content) > LARGEST:
        raise ConfigurationError(f"too large for {what}: more than {LARGEST} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"not UTF-8 text (line {line})") from None


def parse(text: str, *, what: str, parse_float: Callable[[str], Any] = float) -> Table:
    """The table that the text says; `parse_float` makes a number of the digits of a fraction."""
    _refuse_familiar(text, what)
    try:
        return tomllib.loads(text, parse_float=parse_float)
    except tomllib.TOMLDecodeError as error:
        reason = "a key that looks like a secret" if holds_token(str(error)) else error
        raise ConfigurationError(f"broken TOML: {reason}") from None
    except ValueError:  # Python refuses to read an integer of thousands of digits
        raise ConfigurationError("a number in it is too long") from None
    except RecursionError:
        raise ConfigurationError("nested too deeply") from None


def _refuse_familiar(text: str, what: str) -> None:
    """Refuse a text in which a line, a comment included, holds a key of a familiar form."""
    for number, line in enumerate(text.splitlines(), 1):
        if is_familiar(line):
            raise ConfigurationError(
                f"line {number} looks like it holds an API key; {what} holds no keys,"
                " they come from environment variables"
            )
