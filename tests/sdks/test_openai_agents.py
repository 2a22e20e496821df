"""OpenAI Agents: its own retries, and calls that bypass the policy."""

import openai
import pytest
from agents import ModelRetrySettings, ModelSettings, RunConfig, Runner, retry_policies
from recipes import RECIPES

pytestmark = pytest.mark.sdks("shared")
RECIPE = next(each for each in RECIPES if each.name == "openai-agents")


@pytest.mark.parametrize(
    ("policy", "multiplies"),
    [(retry_policies.http_status([429]), True), (retry_policies.provider_suggested(), False)],
)
async def test_retries_of_agents_multiply_unless_they_follow_the_response(
    stormbreak_provider, policy, multiplies
):
    provider = stormbreak_provider('[[faults]]\nkind = "quota"\n')
    retry = ModelRetrySettings(max_retries=2, policy=policy, backoff={"initial_delay": 0.01})
    config = RunConfig(model_settings=ModelSettings(retry=retry))
    async with RECIPE.over(provider.base_url) as running:
        with pytest.raises(openai.RateLimitError):
            await Runner.run(running.agent, "Hello?", run_config=config)
    assert provider.stats()["arrivals"] == (3 if multiplies else 1)


async def test_a_conversation_bypasses_the_policy(stormbreak_provider):
    provider = stormbreak_provider("calm", speed=20)
    async with RECIPE.over(provider.base_url) as running:
        result = await Runner.run(running.agent, "Hello?", conversation_id="conv_1")
        assert result.final_output.startswith("Answer ")
        assert running.transport.snapshot()["targets"] == {}
    assert provider.stats()["arrivals"] == 1


async def test_a_default_client_serves_every_agent_of_a_program(stormbreak_provider):
    provider = stormbreak_provider("calm", speed=20)
    async with RECIPE.over(provider.base_url) as running:
        running.everywhere()
        agent = running.Agent(name="other", model="gpt-4.1-mini")
        assert (await Runner.run(agent, "Hello?")).final_output.startswith("Answer ")
        assert len(running.transport.snapshot()["targets"]) == 1
