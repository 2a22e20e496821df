"""The names of attributes: from OpenTelemetry's semantic conventions, and our own under "stormbreak.".

The GenAI conventions are still in development, in a separate repository. The names are listed here because the
published package marks them as deprecated. No attribute holds a prompt or an answer.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import TypeAlias
from urllib.parse import urlsplit

from stormbreak.escape import LABEL, shown
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
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
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
CALL_LABEL = "stormbreak.label."  # a prefix
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

_PROVIDERS: Mapping[str, str] = {"gemini": "gcp.gemini", "mistral": "mistral_ai", "xai": "x_ai"}
"""Providers whose name in the conventions differs from that of our preset."""


@lru_cache(maxsize=256)
def target_attributes(target: Target) -> Attributes:
    """Return the attributes of a target, not to be changed. They have no key digest: it differs between processes."""
    attributes: Attributes = {TARGET: shown(target.place, LABEL)}
    if target.model:
        attributes |= {
            PROVIDER: _PROVIDERS.get(target.provider) or shown(target.provider, LABEL),
            MODEL: shown(target.model, LABEL),
            **_server_attributes(target),
        }
    return attributes


def usage_attributes(usage: Usage) -> Attributes:
    return {
        INPUT_TOKENS: usage.input_tokens,
        OUTPUT_TOKENS: usage.output_tokens,
        CACHE_READ_TOKENS: usage.cached_input_tokens,
        CACHE_WRITE_TOKENS: usage.cache_write_tokens,
    }


def _server_attributes(target: Target) -> Attributes:
    """Return the server of a target named by its address. A preset may be used with another address."""
    if target.provider in PRESETS:
        return {}
    try:
        parts = urlsplit(f"//{target.provider}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return {}
    if not host:
        return {}
    return (
        {ADDRESS: shown(host, LABEL)} if port is None else {ADDRESS: shown(host, LABEL), PORT: port}
    )
