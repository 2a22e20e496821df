import pytest

from stormbreak.errors import ConfigurationError
from stormbreak.llm.presets import PRESETS, preset


def test_presets_are_what_the_providers_document():
    assert {name: (p.base_url, p.key_env) for name, p in PRESETS.items()} == {
        "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
        "holysheep": ("https://api.holysheep.ai/v1", "HOLYSHEEP_API_KEY"),
        "deepseek": ("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
        "groq": ("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        "local": ("http://127.0.0.1:8900/v1", None),
    }
    assert all(preset(name).name == name for name in PRESETS)


def test_an_unknown_provider_is_told_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"openai, holysheep, .*local; got 'opanai'"):
        preset("opanai")
