"""The addresses of hosts, remembered for a few seconds: a burst of connections asks the resolver once."""

import socket
import time
from itertools import zip_longest
from typing import Any, TypeAlias

Found: TypeAlias = list[tuple[int, tuple[Any, ...]]]
"""Families and socket addresses, in the order of the tries."""

STAGGER = 0.25  # seconds until the next address is tried in parallel (RFC 8305, section 5)
DNS_TTL = 10.0  # seconds
_MAX_NAMES = 64


class DnsCache:
    """Caches the resolver's answers for `DNS_TTL` seconds. From any thread."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[float, Found]] = {}

    def find(self, host: str, port: int) -> Found | None:
        """Return the addresses of a host if they are known, or if `host` is an address."""
        literal = _literal(host, port)
        if literal is not None:
            return literal
        known = self._known.get((host, port))
        return known[1] if known is not None and known[0] > time.monotonic() else None

    def keep(self, host: str, port: int, found: Found) -> None:
        """Remember the addresses of a host."""
        if len(self._known) >= _MAX_NAMES:
            self._known.clear()
        self._known[host, port] = time.monotonic() + DNS_TTL, found

    def forget(self, host: str, port: int) -> None:
        """Forget a host of which no address could be reached."""
        self._known.pop((host, port), None)


def in_order(answers: list[tuple[Any, ...]]) -> Found:
    """Sort the result of `getaddrinfo`: families alternate, the resolver's first choice first (RFC 8305, section 4)."""
    found = [(family, address) for family, _, _, _, address in answers]
    first = [each for each in found if each[0] == found[0][0]]
    others = [each for each in found if each[0] != found[0][0]]
    pairs = zip_longest(first, others)
    return [each for pair in pairs for each in pair if each is not None]


def _literal(host: str, port: int) -> Found | None:
    """Return the address if `host` is one; None: it is a name, or has a zone, which only the resolver can read."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, UnicodeError):
            continue
        return [(family, (host, port))]
    return None
