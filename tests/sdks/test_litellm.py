"""LiteLLM: its own retries, and calls that bypass the policy."""

import litellm
import pytest
from recipes import RECIPES

pytestmark = pytest.mark.sdks("shared")
RECIPE = next(each for each in RECIPES if each.name == "litellm")
SAY = {"model": "openai/gpt-4.1", "messages": [{"role": "user", "content": "Hello?"}]}


async def test_num_retries_multiplies_requests(stormbreak_provider):
    provider = stormbreak_provider('[[faults]]\nkind = "quota"\n')
    async with RECIPE.over(provider.base_url) as running:
        with pytest.raises(litellm.RateLimitError):
            await litellm.acompletion(**SAY, client=running.client, num_retries=1)
    assert provider.stats()["arrivals"] == 2


async def test_a_call_without_the_client_bypasses_the_policy(stormbreak_provider):
    provider = stormbreak_provider("calm", speed=20)
    async with RECIPE.over(provider.base_url) as running:
        await litellm.acompletion(**SAY, api_base=provider.base_url)
        assert running.transport.snapshot()["targets"] == {}
    assert provider.stats()["arrivals"] == 1
