"""LlamaIndex: its own retries multiply unless they are switched off."""

import openai
import pytest
from recipes import RECIPES
from sockets import failing, served

pytestmark = pytest.mark.sdks("llamaindex")
RECIPE = next(each for each in RECIPES if each.name == "llamaindex")
USED_UP = failing(429, {"message": "no", "code": "insufficient_quota"}, retry_after=0)


async def test_retries_of_llamaindex_multiply_requests():
    async with served(USED_UP) as server, RECIPE.over(server.base_url) as running:
        assert running.llm.max_retries == 0
        running.llm.max_retries = 2
        with pytest.raises(openai.RateLimitError):
            await running.ask("ask")
    assert len(server.requests) == 2
