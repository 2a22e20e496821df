"""Read and parse TOML files of limited size.

Every error is a `ConfigurationError` without the name of the file, which callers prepend. A file that
contains an API key is rejected, and the key is never repeated, since such files are shared.
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
from stormbreak.hidden_keys import has_key_prefix, holds_token, quoted

LARGEST = 1024 * 1024  # bytes
MAX_DEPTH = 32  # nested tables and lists
PIPE_PATIENCE = 5.0  # seconds to wait for the writer of a pipe

Table = dict[str, Any]


def read_text(path: str | os.PathLike[str], *, what: str) -> str:
    """Read the text of the file; `what` describes it in messages."""
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
    """Open a file for reading; also a pipe, if it has a writer.

    Raises:
        OSError: it cannot be opened, or the name is invalid; `strerror` says why.
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
        raise OSError(errno.EPIPE, "the pipe has no writer")


def read_bytes(path: str | os.PathLike[str], *, what: str, largest: int = LARGEST) -> bytes:
    """Read the whole file.

    Raises:
        OSError: as `opened`.
        ConfigurationError: it is too large.
    """
    with opened(path) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ConfigurationError(f"too large for {what}: more than {largest} bytes")
    return content


def parse(text: str, *, what: str, parse_float: Callable[[str], Any] = float) -> Table:
    """Parse TOML; `parse_float` converts fractions."""
    _refuse_familiar(text, what)
    try:
        table = tomllib.loads(text, parse_float=parse_float)
    except tomllib.TOMLDecodeError as error:
        reason = "a key that looks like a secret" if holds_token(str(error)) else error
        raise ConfigurationError(f"invalid TOML: {reason}") from None
    except ValueError:  # Python refuses to read an integer of thousands of digits
        raise ConfigurationError("a number is too long") from None
    except RecursionError:
        raise ConfigurationError("nested too deeply") from None
    check_depth(table)
    return table


def check_depth(table: Table) -> None:
    """Reject a table that is nested too deeply for recursion; each part of a dotted key is a table."""
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
    """Reject a text with an API key in any line, comments included."""
    for number, line in enumerate(text.splitlines(), 1):
        if has_key_prefix(line):
            raise ConfigurationError(
                f"line {number} looks like it contains an API key; {what} must not contain keys,"
                " use environment variables"
            )
