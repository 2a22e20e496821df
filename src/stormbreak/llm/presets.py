"""The providers that are known by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from stormbreak.errors import ConfigurationError
from stormbreak.keylike import quoted


class Preset(NamedTuple):
    """Where a provider is, and which environment variable holds its key (None: it needs no key)."""

    name: str
    base_url: str
    key_env: str | None


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
            Preset("anthropic", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
            Preset("holysheep", "https://api.holysheep.ai/v1", "HOLYSHEEP_API_KEY"),
            Preset("deepseek", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
            Preset("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
            Preset("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
            Preset(
                "gemini",
                "https://generativelanguage.googleapis.com/v1beta/openai",
                "GEMINI_API_KEY",
            ),
            Preset("mistral", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
            Preset("xai", "https://api.x.ai/v1", "XAI_API_KEY"),
            Preset("together", "https://api.together.xyz/v1", "TOGETHER_API_KEY"),
            Preset("fireworks", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
            Preset("cerebras", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
            Preset("local", "http://127.0.0.1:8900/v1", None),
        )
    }
)


def preset(name: str) -> Preset:
    """Find a provider by name; raise ConfigurationError with the names that are known."""
    known = PRESETS.get(name)
    if known is None:
        raise ConfigurationError(
            f"provider must be one of {', '.join(PRESETS)}; got {quoted(name)}"
        )
    return known
