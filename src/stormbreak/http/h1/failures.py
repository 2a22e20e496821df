"""Failed connections: an exception of the operating system or of TLS in, an outcome out.

The exceptions themselves are not kept: their frames refer to the request and its key. The message of the operating
system or TLS is kept in a new exception.
"""

import errno
import os
import socket
import ssl
from collections.abc import Mapping
from types import MappingProxyType

from stormbreak.types import Outcome, Rejection, Verdict

OPEN_FILES = "open_files"
"""The policy name of a rejection by the limit on open files of this process or machine. Nothing was sent."""

_TOO_MANY = Outcome(
    Verdict.REJECTED,
    detail="too many open files",
    rejection=Rejection(
        OPEN_FILES,
        "too many open files in this process; raise the limit (ulimit -n) or lower the concurrency",
    ),
)


NOT_SENT = Outcome(Verdict.RESET, detail="connection lost")


class PoolClosedError(Exception):
    """The pool was closed while a request waited for a socket."""


class ProxyRefusedError(OSError):
    """A proxy answered CONNECT with a status other than 2xx, or not with HTTP (None)."""

    def __init__(self, status: int | None) -> None:
        super().__init__()
        self.status = status


def connect_outcome(error: BaseException, *, proxied: bool) -> Outcome:
    """Return the outcome of a failed connection with its `error`. `proxied`: it was a connection to a proxy."""
    if _lacks_files(error):
        return _TOO_MANY
    where = "the proxy: " if proxied else ""
    return Outcome(Verdict.CONNECT_FAILED, error=_copy(error), detail=_connect_detail(error, where))


def _connect_detail(error: BaseException, where: str) -> str:
    if isinstance(error, ProxyRefusedError):
        refused = error.status is not None
        return (
            f"the proxy refused with status {error.status}"
            if refused
            else f"{where}connection lost"
        )
    if isinstance(error, ssl.SSLError):
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"certificate refused: {error.verify_message or 'cannot be trusted'}"
        return "TLS failed"
    if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
        return where + type(error).__name__  # such as of pytest-socket, which blocks sockets
    for kinds, detail in _DETAILS.items():
        if isinstance(error, kinds):
            return where + detail
    number = error.errno if isinstance(error, OSError) else None
    refused = number is None or number == errno.ECONNREFUSED
    return where + ("connection refused" if refused else os.strerror(number or 0).lower())


_DETAILS: Mapping[tuple[type[BaseException], ...], str] = MappingProxyType(
    {
        (socket.gaierror, UnicodeError): "host not found",
        (RuntimeError,): "no thread can be started",  # names are looked up on threads
        (TimeoutError,): "connection timed out",
    }
)


def is_out_of_files(error: BaseException | None) -> bool:
    """Whether this process, or machine, may open no more files."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def _lacks_files(error: BaseException) -> bool:
    """Whether the connection failed because this process, or machine, may open no more files."""
    if is_out_of_files(error):
        return True
    if not isinstance(error, socket.gaierror):
        return False
    try:  # a resolver does not report a failure to open a file
        os.close(os.dup(0))
    except OSError as lack:
        return is_out_of_files(lack)
    return False


def _copy(error: BaseException) -> OSError | None:
    """Return a copy without frames; None if the error is neither from the operating system nor from TLS."""
    if isinstance(error, TimeoutError):
        return TimeoutError("no connection in time")
    if not isinstance(error, OSError) or not isinstance(error.strerror, str):
        return None
    for kind in (ssl.SSLError, socket.gaierror):
        if isinstance(error, kind):
            return kind(error.errno, error.strerror)
    return OSError(error.errno, error.strerror)
