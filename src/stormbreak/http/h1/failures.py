"""What a failed exchange means: an exception of aiohttp in, an outcome out.

The exceptions are not kept: they hold the headers of the request with the key, passwords of proxies, text of the
server, and frames with all of that. The error of the operating system or TLS is kept, as an exception of its own.
"""

import errno
import os
import socket
import ssl

import aiohttp

from stormbreak.http.h1.decoding import UnacceptedCodingError, UndecodableError
from stormbreak.types import Outcome, Rejection, Verdict

OPEN_FILES = "open_files"
"""The policy of a rejection: the limit of this process, or machine, on open files. Nothing was sent."""

_TOO_MANY = Outcome(
    Verdict.REJECTED,
    detail="too many open files",
    rejection=Rejection(
        OPEN_FILES,
        "too many open files in this process; raise the limit (ulimit -n) or lower the concurrency",
    ),
)


class EarlyResponseError(aiohttp.ClientError):
    """A success began before the whole request was sent: it cannot be the answer to it."""


def outcome_of(error: Exception, status: int | None) -> Outcome:
    """Return what a failed exchange means; `status` is None if no headers had come."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return Outcome(
            Verdict.CONNECT_FAILED, detail=f"the proxy refused with status {error.status}"
        )
    if isinstance(error, aiohttp.ClientConnectorError) and _lacks_files(error):
        return _TOO_MANY
    cause = _cause(error)
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return Outcome(Verdict.CONNECT_FAILED, error=cause, detail=_connect_detail(error))
    verdict, detail = _failure(error, answered=status is not None)
    return Outcome(verdict, error=cause, status=status, detail=detail, maybe_processed=True)


def is_out_of_files(error: BaseException | None) -> bool:
    """Whether this process, or machine, may open no more files."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def _lacks_files(error: aiohttp.ClientConnectorError) -> bool:
    """Whether the connection failed because this process, or machine, may open no more files."""
    if is_out_of_files(error.os_error):
        return True
    if not isinstance(error, aiohttp.ClientConnectorDNSError):
        return False
    try:  # a resolver does not report that it could not open a file
        os.close(os.dup(0))
    except OSError as lack:
        return is_out_of_files(lack)
    return False


def _failure(error: Exception, *, answered: bool) -> tuple[Verdict, str]:
    if isinstance(error, TimeoutError):
        return Verdict.TIMEOUT, "went silent"
    if isinstance(error, EarlyResponseError):
        return Verdict.BROKEN, "answered before the whole request was sent"
    if isinstance(error, UndecodableError):
        again = not isinstance(error, UnacceptedCodingError)
        return Verdict.BROKEN if again else Verdict.UNREPEATABLE, str(error)
    if isinstance(error, aiohttp.ClientPayloadError):
        return Verdict.BROKEN, "body was cut"
    if isinstance(error, aiohttp.ServerDisconnectedError | OSError):
        return (Verdict.BROKEN, "body was cut") if answered else (Verdict.RESET, "connection lost")
    return Verdict.BROKEN, "not HTTP"


def _connect_detail(error: Exception) -> str:
    where = "the proxy: " if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        refused = error.certificate_error
        reason = getattr(refused, "verify_message", "") or "cannot be trusted"
        return f"certificate refused: {reason}"
    if isinstance(error, aiohttp.ClientSSLError):
        return f"{where}TLS failed"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        no_thread = error.os_error.errno == errno.EAGAIN
        return where + ("no thread can be started" if no_thread else "host not found")
    if isinstance(error, TimeoutError):
        return f"{where}connection timed out"
    number = error.errno if isinstance(error, OSError) else None
    if number is None or number == errno.ECONNREFUSED:
        return f"{where}connection refused"
    return f"{where}{os.strerror(number).lower()}"


def _cause(error: Exception) -> OSError | None:
    """Return the error of the operating system, TLS or a timer; None if there is none."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return TimeoutError("no connection in time")
    cause: BaseException = error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
    if not isinstance(cause, OSError) or not isinstance(cause.strerror, str):
        return None
    for kind in (ssl.SSLError, socket.gaierror):
        if isinstance(cause, kind):
            return kind(cause.errno, cause.strerror)
    return OSError(cause.errno, cause.strerror)
