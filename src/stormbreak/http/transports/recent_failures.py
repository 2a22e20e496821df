"""Calls that were given up a moment ago: an SDK that asks for one again, by a retry of its own, is told the same at once.

An exception carries no header that forbids a retry. Of a request only a digest is kept, and only for a while.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

from stormbreak.http.transports.sdk_request import SdkRequest
from stormbreak.http.transports.sdk_response import Failure

KEPT = 60.0  # seconds; the SDKs come back within 8
_MOST = 1024

_SALT = secrets.token_bytes(16)


class RecentFailures:
    """What was raised for which request, on whatever thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, Failure]] = OrderedDict()

    def keep(self, request: SdkRequest, body: bytes, failure: Failure) -> None:
        """Remember that the request ended so."""
        self._kept[_digest(request, body)] = self._clock(), failure
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)

    def find(self, request: SdkRequest, body: bytes) -> Failure | None:
        """How the call ended which an SDK asks for again; None where it is a call of its own."""
        if not request.sdk_retry_count:
            return None
        known = self._kept.get(_digest(request, body))
        return known[1] if known is not None and self._clock() - known[0] < KEPT else None


def _digest(request: SdkRequest, body: bytes) -> bytes:
    digest = blake2b(key=_SALT, digest_size=16)
    for part in (request.method, request.url, request.key or ""):
        digest.update(part.encode() + b"\0")
    digest.update(body)
    return digest.digest()
