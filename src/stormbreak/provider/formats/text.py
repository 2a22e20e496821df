"""What an answer says: words drawn by the digest of the request, which they name. Never any of the prompt."""

from stormbreak.provider.chance import mix

_VOCABULARY = """
amber anchor basin beacon birch bridge calm canyon cedar cinder cliff cloud copper coral cove current
dawn delta drift dune ember estuary fern field fjord flint frost garden glacier granite grove harbour
haze heather horizon island juniper keel lagoon lantern ledge maple marsh meadow mist moss oak orchard
pebble pine prairie quarry reef ridge river sail shore slate spruce summit thicket tide valley willow
"""
_WORDS = _VOCABULARY.split()
_WORD_COUNT = 12

TOKENS = _WORD_COUNT + 2
"""Tokens of every answer."""


def text_for(digest: str) -> str:
    """Compose the text that answers the request of this digest."""
    bits = mix(int(digest, 16))
    words = [_WORDS[(bits >> (5 * place)) % len(_WORDS)] for place in range(_WORD_COUNT)]
    return f"Answer {digest}: {' '.join(words)}."


def words_for(digest: str) -> list[str]:
    """Cut that text into the pieces in which it is streamed."""
    first, *rest = text_for(digest).split(" ")
    return [first, *(f" {word}" for word in rest)]
