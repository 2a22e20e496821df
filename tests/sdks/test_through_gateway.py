"""Frameworks through the gateway: only their address and key change."""

import asyncio

import openai
import pytest
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
)
from gateways import KEY, PROVIDER_KEY, QUICK, running, settings
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

pytestmark = pytest.mark.sdks("shared")
ANSWERS = {
    "weather": {"tool_calls": [{"name": "get_weather", "arguments": {"city": "Hanoi"}}]},
    "22 degrees in Hanoi": "It is warm.",
}


@pytest.fixture
def through(tmp_path, monkeypatch, stormbreak_provider):
    """Start a gateway before a provider with these answers."""
    monkeypatch.setenv("GATEWAY_TEST_KEY", PROVIDER_KEY)

    def start(scenario=QUICK):
        provider = stormbreak_provider(scenario, answers=ANSWERS)
        return running(tmp_path / "gateway.toml", settings(provider.base_url))

    return start


def get_weather(city: str) -> str:
    """Return the weather in a city."""
    return f"22 degrees in {city}"


def of_openai(gateway, **more):
    return ChatOpenAI(model="main", base_url=f"{gateway.url}/v1", api_key=KEY, **more)


def of_anthropic(gateway, **more):
    return ChatAnthropic(model="main", base_url=gateway.url, api_key=KEY, max_tokens=100, **more)


@pytest.mark.parametrize("make", [of_openai, of_anthropic])
async def test_langchain_calls_a_tool_and_streams(through, make):
    async with through() as gateway:
        model = make(gateway).bind_tools([tool(get_weather)])
        turns = [("human", "How is the weather?")]
        first = await model.ainvoke(turns)
        (call,) = first.tool_calls
        turns += [first, await tool(get_weather).ainvoke(call)]
        assert (await model.ainvoke(turns)).text == "It is warm."
        pieces = [chunk.text async for chunk in model.astream(turns)]
        assert "".join(pieces) == "It is warm."
        assert len([piece for piece in pieces if piece]) == 3
        assert gateway.metric("requests_total") == 3


async def test_langchain_makes_blocking_calls(through):
    async with through() as gateway:
        answer = await asyncio.to_thread(of_openai(gateway).invoke, "22 degrees in Hanoi")
        assert answer.text == "It is warm."


async def test_errors_of_langchain_are_those_of_the_sdk_and_cost_one_request(through):
    async with through('[[faults]]\nkind = "quota"\n') as gateway:
        with pytest.raises(openai.APIStatusError) as caught:
            await of_openai(gateway).ainvoke("Hello?")
        assert caught.value.status_code == 502  # the account of the gateway, not of its client
        assert gateway.metric("requests_total") == 1


@pytest.mark.parametrize("kind", [OpenAIChatCompletionsModel, OpenAIResponsesModel])
async def test_an_agent_of_openai_uses_its_tool(through, kind):
    async with (
        through() as gateway,
        openai.AsyncOpenAI(api_key=KEY, base_url=f"{gateway.url}/v1") as client,
    ):
        model = kind("main", openai_client=client)
        agent = Agent(name="helper", model=model, tools=[function_tool(get_weather)])
        result = await Runner.run(agent, "How is the weather?")
        assert result.final_output == "It is warm."
        streamed = Runner.run_streamed(agent, "How is the weather?")
        names = [
            event.name
            async for event in streamed.stream_events()
            if event.type == "run_item_stream_event"
        ]
        assert names[-3:] == ["tool_called", "tool_output", "message_output_created"]
        assert streamed.final_output == "It is warm."
        assert gateway.metric("requests_total") == 4
