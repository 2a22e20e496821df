"""LlamaIndex: what its own retries cost where they are not switched off."""

import openai
import pytest
from recipes import RECIPES

pytestmark = pytest.mark.sdks("llamaindex")
RECIPE = next(each for each in RECIPES if each.name == "llamaindex")
QUOTA = '[[trouble]]\nkind = "quota"\nretry_after = 1\n'


async def test_its_retries_multiply(stormbreak_provider):
    provider = stormbreak_provider(QUOTA)
    async with RECIPE.over(provider.base_url) as running:
        assert running.llm.max_retries == 0
        running.llm.max_retries = 2
        with pytest.raises(openai.RateLimitError):
            await running.ask("ask")
    assert provider.stats()["arrivals"] == 2
