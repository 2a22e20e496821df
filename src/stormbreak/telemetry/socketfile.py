"""A Unix socket and its file: made for its owner alone, taken over where it is stale, removed where it is ours.

The kernel takes no long paths for sockets. Of two forms of a path, the given one and that from the working directory, the
shorter is used.
"""

import os
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path

from stormbreak.errors import ConfigurationError
from stormbreak.telemetry.tame import tame

LONGEST = 103 if sys.platform == "darwin" else 107  # bytes
ANSWERS_WITHIN = 1.0  # seconds that a look at who is there already may take
_SHOWN = 4096  # characters of a path in a message


class SocketFile:
    """Where a socket is to be, or is.

    Raises:
        ConfigurationError: the path is too long for a socket, or leads nowhere.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.path = path.absolute()
        except OSError as error:  # the working directory is gone
            said = (error.strerror or "cannot be found").lower()
            raise ConfigurationError(f"{tame(str(path), _SHOWN)}: {said}") from error
        self._made: tuple[int, int] | None = None
        self._address()

    def bind(self, to: socket.socket) -> None:
        """Bind `to` there. Nobody can connect before it listens, and then only its owner.

        Raises:
            ConfigurationError: somebody listens there, something else stands there, or no socket can be made there.
        """
        self._clear()
        try:
            to.bind(self._address())
            self.path.chmod(0o600)
            found = self.path.lstat()
        except OSError as error:
            raise self._unfit((error.strerror or "no socket can be there").lower()) from error
        self._made = found.st_dev, found.st_ino

    def connected(self, timeout: float) -> socket.socket:
        """Connect to it."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            client.settimeout(timeout)
            client.connect(self._address())
        except BaseException:
            client.close()
            raise
        return client

    def remove(self) -> None:
        """Remove the file, if it is still the one that was made."""
        with suppress(OSError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self._made:
                self.path.unlink()

    def _clear(self) -> None:
        """Take away a socket that nobody listens to any more."""
        try:
            found = self.path.lstat()
        except OSError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise self._unfit("exists, and is no socket")
        try:
            self.connected(ANSWERS_WITHIN).close()
        except ConnectionRefusedError:
            with suppress(OSError):
                self.path.unlink()
        except OSError as error:
            raise self._unfit((error.strerror or "does not answer").lower()) from error
        else:
            raise self._unfit("in use")

    def _address(self) -> str:
        forms = [str(self.path)]
        with suppress(OSError):  # the working directory is gone
            forms.append(os.path.relpath(self.path))
        shortest = min(forms, key=lambda form: len(os.fsencode(form)))
        if len(os.fsencode(shortest)) > LONGEST:
            raise self._unfit(f"too long for a socket: {LONGEST} bytes at the most")
        return shortest

    def _unfit(self, why: str) -> ConfigurationError:
        return ConfigurationError(f"{tame(str(self.path), _SHOWN)}: {why}")
