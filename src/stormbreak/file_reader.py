"""Open and read files that users name: never block on a pipe without a writer, and limit the size.

Errors of `read_text` and `read_bytes` do not name the file: callers prepend it.
"""

import errno
import os
import select
import stat
from io import DEFAULT_BUFFER_SIZE, BufferedReader, FileIO

from stormbreak.errors import ConfigurationError

LARGEST = 1024 * 1024  # bytes
PIPE_PATIENCE = 5.0  # seconds to wait for the writer of a pipe


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
