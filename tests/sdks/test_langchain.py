"""LangChain: its own retries, and the shared clients of anthropic."""

import openai
import pytest
from recipes import RECIPES

from stormbreak import ConfigurationError
from stormbreak.httpx2 import wrap

pytestmark = pytest.mark.sdks("shared")
RECIPE = next(each for each in RECIPES if each.name == "langchain")


async def test_with_retry_multiplies_requests(stormbreak_provider):
    provider = stormbreak_provider('[[faults]]\nkind = "quota"\n')
    async with RECIPE.over(provider.base_url) as running:
        again = running.model.with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
        with pytest.raises(openai.RateLimitError):
            await again.ainvoke("Hello?")
    assert provider.stats()["arrivals"] == 2


async def test_models_of_claude_share_the_wrapped_client(stormbreak_provider):
    provider = stormbreak_provider("calm", speed=20)
    async with RECIPE.over(provider.base_url) as running:
        url = provider.base_url.removesuffix("/v1")
        other = running.ChatAnthropic(model="claude-opus-5", base_url=url, timeout=60)
        assert (await other.ainvoke("Hello?")).text.startswith("Answer ")
        assert "claude-opus-5" in str(running.transport.snapshot()["targets"])
        with pytest.raises(ConfigurationError, match="already"):
            wrap(other._async_client, running.transport.engine)
