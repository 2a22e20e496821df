"""The names of attributes: those of OpenTelemetry's semantic conventions, and our own under "stormbreak.".

The conventions for generative AI are still in development, and live in a repository of their own; the names are written
down here instead of being taken from a package that calls them deprecated. There is none for a prompt or an answer.
"""

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TypeAlias
from urllib.parse import urlsplit

from stormbreak.escape import tame
from stormbreak.llm.providers import PRESETS
from stormbreak.types import Target, Usage

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
MODEL = "gen_ai.request.model"
STREAM = "gen_ai.request.stream"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - no secret
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
WRITTEN_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
ERROR_TYPE = "error.type"
STATUS_CODE = "http.response.status_code"
RESENDS = "http.request.resend_count"
ADDRESS = "server.address"
PORT = "server.port"

ATTEMPT = "stormbreak.attempt"
ATTEMPTS = "stormbreak.attempts"
CODE = "stormbreak.code"
FREE = "stormbreak.free"
GATE = "stormbreak.gate"
LABEL = "stormbreak.label."  # and the name of the label
MAYBE_PROCESSED = "stormbreak.maybe_processed"
POLICY = "stormbreak.policy"
PRIORITY = "stormbreak.priority"
REASON = "stormbreak.reason"
SECONDS = "stormbreak.seconds"
SOURCE = "stormbreak.source"
TARGET = "stormbreak.target"
TO = "stormbreak.to"
UNFINISHED = "stormbreak.unfinished"
VERDICT = "stormbreak.verdict"
WAITED = "stormbreak.waited"

Value: TypeAlias = str | bool | int | float
Attributes: TypeAlias = dict[str, Value]

_PROVIDERS: Mapping[str, str] = MappingProxyType(
    {"gemini": "gcp.gemini", "mistral": "mistral_ai", "xai": "x_ai"}
)
"""What the conventions call otherwise than our presets."""


@lru_cache(maxsize=256)
def where(target: Target) -> Attributes:
    """What is said of a target on a span, not to be changed. Its key is not: digests mean nothing in another process."""
    told: Attributes = {TARGET: tame(target.place)}
    if target.model:
        told |= {PROVIDER: provider_of(target), MODEL: tame(target.model), **_server_of(target)}
    return told


def used(usage: Usage) -> Attributes:
    """The tokens of an answer, as far as they were counted."""
    return {
        INPUT_TOKENS: usage.input_tokens,
        OUTPUT_TOKENS: usage.output_tokens,
        CACHED_TOKENS: usage.cached_input_tokens,
        WRITTEN_TOKENS: usage.cache_write_tokens,
    }


def provider_of(target: Target) -> str:
    """The provider, as the conventions call it; one that nobody knows by name is called by its address."""
    return _PROVIDERS.get(target.provider) or tame(target.provider)


def _server_of(target: Target) -> Attributes:
    """The server, of a target that is named by its address; one of a known name may be behind another address."""
    if target.provider in PRESETS:
        return {}
    try:
        parts = urlsplit(f"//{target.provider}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return {}
    if not host:
        return {}
    told: Attributes = {ADDRESS: tame(host)}
    return told if port is None else told | {PORT: port}
