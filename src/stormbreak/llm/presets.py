"""The providers that are known by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from stormbreak.errors import ConfigurationError
from stormbreak.keylike import quoted


class KnownProvider(NamedTuple):
    """Where a provider is, and which environment variable holds its key (None: it needs no key)."""

    name: str
    base_url: str
    key_env: str | None


PRESETS: Mapping[str, KnownProvider] = MappingProxyType(
    {
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
            KnownProvider(
                "fireworks", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"
            ),
            KnownProvider("cerebras", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
            KnownProvider("local", "http://127.0.0.1:8900/v1", None),
        )
    }
)


def preset(name: str) -> KnownProvider:
    """Find a provider by name; raise ConfigurationError with the names that are known."""
    known = PRESETS.get(name)
    if known is None:
        raise ConfigurationError(
            f"provider must be one of {', '.join(PRESETS)}; got {quoted(name)}"
        )
    return known
