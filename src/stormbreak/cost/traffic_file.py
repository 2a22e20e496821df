"""Which kind of file real traffic is in: told by what it holds, not by its name."""

from codecs import BOM_UTF8
from itertools import chain
from pathlib import Path

from stormbreak import tomlfile
from stormbreak.cost.answers import is_line, read_answers
from stormbreak.cost.traffic import Traffic, sum_usage
from stormbreak.cost.usage_export import read_csv, read_pages
from stormbreak.errors import ConfigurationError

LARGEST = 256 * 1024 * 1024
"""Bytes of an export; OUTPUT may be of any size."""


def read_traffic(path: Path) -> Traffic:
    """Read OUTPUT of a batch, or an export of OpenAI's.

    Raises:
        ConfigurationError: it cannot be read, is neither, or holds nothing; the message names the file.
    """
    try:
        traffic = _read(path)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    if not traffic.uses:
        raise ConfigurationError(f"{path}: holds no answer, and no use")
    return traffic


def _read(path: Path) -> Traffic:
    """Read it once, from its beginning: it may be a pipe."""
    with tomlfile.opened(path) as file:
        first = file.readline(LARGEST)
        if is_line(first):
            return Traffic(uses=sum_usage(read_answers(chain([first], file))))
        raw = (first + file.read(LARGEST + 1)).removeprefix(BOM_UTF8)
    if not raw.strip():
        return Traffic(uses=())
    if len(raw) > LARGEST:
        raise ConfigurationError(f"too large for an export of usage: more than {LARGEST:,} bytes")
    if raw.lstrip()[:1] in (b"{", b"["):
        return read_pages(raw)
    try:
        return read_csv(raw.decode())
    except UnicodeDecodeError:
        raise ConfigurationError("not UTF-8 text") from None
