"""The known providers, and the headers in which an API expects its key."""

from collections.abc import Mapping
from typing import NamedTuple

from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import quoted
from stormbreak.llm.endpoints import Shape


class KnownProvider(NamedTuple):
    """The address of a provider, and the environment variable with its key (None: it needs no key)."""

    name: str
    base_url: str
    key_env: str | None


PRESETS: Mapping[str, KnownProvider] = {
    preset.name: preset
    for preset in (
        KnownProvider("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
        KnownProvider("anthropic", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
        KnownProvider("holysheep", "https://api.holysheep.ai/v1", "HOLYSHEEP_API_KEY"),
        KnownProvider("deepseek", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
        KnownProvider("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        KnownProvider("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        KnownProvider(
            "gemini",
            "https://generativelanguage.googleapis.com/v1beta/openai",
            "GEMINI_API_KEY",
        ),
        KnownProvider("mistral", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
        KnownProvider("xai", "https://api.x.ai/v1", "XAI_API_KEY"),
        KnownProvider("together", "https://api.together.xyz/v1", "TOGETHER_API_KEY"),
        KnownProvider("fireworks", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
        KnownProvider("cerebras", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
        KnownProvider("local", "http://127.0.0.1:8900/v1", None),
    )
}


def preset(name: str) -> KnownProvider:
    """Find a provider by name; raise ConfigurationError with the known names."""
    if name not in PRESETS:
        names = ", ".join(PRESETS)
        raise ConfigurationError(f"provider must be one of {names}; got {quoted(name)}")
    return PRESETS[name]


# ---------------------------------------------------------------- key headers
# The header in which an API expects its key, and other required headers. A known host decides. For other hosts the
# shape decides: the header is `Authorization`, and for Anthropic's Messages API also `x-api-key`, since its many
# implementations differ. vLLM and Ollama read only `Authorization` (vllm#51572, ollama#16922), proxies to Anthropic
# only `x-api-key`, gateways either. Anthropic itself is reported to refuse both together (moeru-ai/airi#2098), so an
# Anthropic key goes only in `x-api-key`, whatever the host. Azure expects `x-api-key` for messages (continue#11513) and
# `api-key` for all else.

AUTHORIZATION, X_API_KEY, API_KEY = "Authorization", "x-api-key", "api-key"
VERSION = {"anthropic-version": "2023-06-01"}

ANTHROPIC = "api.anthropic.com"
AZURE = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
ANTHROPIC_KEY = "sk-ant-"


def key_headers(host: str, api_key: str | None, shape: Shape) -> dict[str, str]:
    """Return the headers of a request for this shape to `host` (in lower case)."""
    headers = dict(VERSION) if _is_anthropic(host, shape) or shape is Shape.MESSAGES else {}
    if api_key is not None:
        for name in _names(host, api_key, shape):
            headers[name] = f"Bearer {api_key}" if name == AUTHORIZATION else api_key
    return headers


def _names(host: str, api_key: str, shape: Shape) -> tuple[str, ...]:
    message = shape is Shape.MESSAGES
    if host.endswith(AZURE):
        return (API_KEY, X_API_KEY) if message else (API_KEY,)
    if _is_anthropic(host, shape) or (message and api_key.startswith(ANTHROPIC_KEY)):
        return (X_API_KEY,)
    return (AUTHORIZATION, X_API_KEY) if message else (AUTHORIZATION,)


def _is_anthropic(host: str, shape: Shape) -> bool:
    """Whether it is Anthropic's own API; its chat completions work as OpenAI's do."""
    return host == ANTHROPIC and shape is not Shape.CHAT
