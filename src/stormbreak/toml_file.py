"""TOML files that people write, policies and scenarios: read whole but not at any size, and parsed.

Whatever is wrong is one `ConfigurationError` without the name of the file, which callers put before it. A file that
holds a familiar API key is refused, and the key is never repeated: such files are shared and kept.
"""

import errno
import os
import select
import stat
import tomllib
from collections.abc import Callable, Iterable
from io import DEFAULT_BUFFER_SIZE, BufferedReader, FileIO
from typing import Any

from stormbreak.errors import ConfigurationError
from stormbreak.key_patterns import has_key_prefix, holds_token, quoted

LARGEST = 1024 * 1024  # bytes
MAX_DEPTH = 32  # tables and lists within each other; no file of ours needs ten
PIPE_PATIENCE = 5.0  # seconds until somebody writes to a pipe

Table = dict[str, Any]


def read_text(path: str | os.PathLike[str], *, what: str) -> str:
    """The text of the file; `what` it is, in the words of a message."""
    try:
        content = read_bytes(path, what=what)
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"not UTF-8 text (line {line})") from None


def opened(path: str | os.PathLike[str], *, buffering: int = DEFAULT_BUFFER_SIZE) -> BufferedReader:
    """Open a file that somebody named for reading: a pipe as well, if somebody writes to it.

    Raises:
        OSError: it cannot be opened, or is no possible name; `strerror` says why.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError:  # a null character
        raise OSError(errno.EINVAL, "not a file name") from None
    try:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            _wait_for_pipe_writer(fd)
        os.set_blocking(fd, True)
        return BufferedReader(FileIO(fd, "rb"), buffering)
    except BaseException:
        os.close(fd)
        raise


def _wait_for_pipe_writer(fd: int) -> None:
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    if not waiting.poll(PIPE_PATIENCE * 1000):
        raise OSError(errno.EPIPE, "nobody writes to that pipe")


def read_bytes(path: str | os.PathLike[str], *, what: str, largest: int = LARGEST) -> bytes:
    """All that is in the file, within limits.

    Raises:
        OSError: as `opened` does.
        ConfigurationError: there is too much of it.
    """
    with opened(path) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ConfigurationError(f"too large for {what}: more than {largest} bytes")
    return content


def parse(text: str, *, what: str, parse_float: Callable[[str], Any] = float) -> Table:
    """The table that the text says; `parse_float` makes a number of the digits of a fraction."""
    _refuse_familiar(text, what)
    try:
        table = tomllib.loads(text, parse_float=parse_float)
    except tomllib.TOMLDecodeError as error:
        reason = "a key that looks like a secret" if holds_token(str(error)) else error
        raise ConfigurationError(f"broken TOML: {reason}") from None
    except ValueError:  # Python refuses to read an integer of thousands of digits
        raise ConfigurationError("a number in it is too long") from None
    except RecursionError:
        raise ConfigurationError("nested too deeply") from None
    check_depth(table)
    return table


def check_depth(table: Table) -> None:
    """Refuse what is nested deeper than whoever looks through it can follow: a key of many parts is a table in each."""
    level: list[tuple[str, object]] = [*table.items()]
    for _ in range(MAX_DEPTH):
        level = [(top, inner) for top, value in level for inner in _inside(value)]
        if not level:
            return
    top = quoted(level[0][0])
    raise ConfigurationError(f"{top} is nested too deeply: more than {MAX_DEPTH} levels")


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _refuse_familiar(text: str, what: str) -> None:
    """Refuse a text in which a line, a comment included, holds a key of a familiar form."""
    for number, line in enumerate(text.splitlines(), 1):
        if has_key_prefix(line):
            raise ConfigurationError(
                f"line {number} looks like it holds an API key; {what} holds no keys,"
                " they come from environment variables"
            )
