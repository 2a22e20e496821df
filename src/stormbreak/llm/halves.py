"""Half characters: a model cut in the middle of an emoji leaves one surrogate, which strict decoders refuse."""

import re

_ESCAPES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole character in two halves
    rb"|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\."
)


def mended(body: bytes) -> bytes:
    r"""Put the replacement character, \ufffd, in place of every lone half in the strings of a JSON text."""
    return _ESCAPES.sub(lambda found: rb"\ufffd" if found["half"] else found[0], body)
