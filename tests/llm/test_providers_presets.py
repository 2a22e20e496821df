from pathlib import Path

import pytest

from stormbreak.errors import ConfigurationError
from stormbreak.llm.providers import PRESETS, preset


def test_presets_match_the_documentation_of_providers():
    assert {name: (p.base_url, p.key_env) for name, p in PRESETS.items()} == {
        "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
        "anthropic": ("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
        "holysheep": ("https://api.holysheep.ai/v1", "HOLYSHEEP_API_KEY"),
        "deepseek": ("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
        "groq": ("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        "gemini": ("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
        "mistral": ("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
        "xai": ("https://api.x.ai/v1", "XAI_API_KEY"),
        "together": ("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
        "fireworks": ("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
        "cerebras": ("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
        "local": ("http://127.0.0.1:8900/v1", None),
    }
    assert all(preset(name).name == name for name in PRESETS)


def test_an_unknown_provider_lists_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"openai, anthropic, .*local; got 'opanai'"):
        preset("opanai")


def test_the_documentation_lists_every_preset():
    page = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
    assert [name for name in PRESETS if f"`{name}`" not in page] == []


def test_key_variables_are_named_after_their_presets():
    for name, known in PRESETS.items():
        assert known.key_env in (f"{name.upper()}_API_KEY", None)
