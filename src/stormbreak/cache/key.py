"""Under which key an answer is kept: a keyed digest of all that it depends on.

That is the server, the endpoint, the body (its model included) and who asked, by the API key. How an answer is to be delivered
(`stream`) is left out, since it changes nothing that is said, and so is the order of the body's fields. Without the
secret nobody can find out by trying whether a certain prompt was asked, or with which key.
"""

from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from stormbreak.llm.halves import UNREADABLE

SECRET_BYTES = 32
_DELIVERY = frozenset({"stream", "stream_options"})
_encode = msgspec.json.Encoder(order="sorted").encode


def cache_key(
    secret: bytes, base_url: str, endpoint: str, body: bytes, api_key: str | None
) -> bytes | None:
    """The key of an answer to `body`, 32 bytes; None for a body that is no JSON object."""
    try:
        said = msgspec.json.decode(body)
    except UNREADABLE:
        return None
    if not isinstance(said, dict):
        return None
    return _digest(secret, said, base_url.rstrip("/"), endpoint.strip("/"), api_key or "")


def _digest(secret: bytes, said: Mapping[str, object], *words: str) -> bytes:
    digest = blake2b(key=secret, digest_size=32)
    essence = _encode({name: value for name, value in said.items() if name not in _DELIVERY})
    for part in (*(word.encode() for word in words), essence):
        digest.update(len(part).to_bytes(8, "big"))  # so that no part can pass for the next
        digest.update(part)
    return digest.digest()
