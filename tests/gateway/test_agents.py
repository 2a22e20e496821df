"""Agents and curl through the gateway: tools, reasoning, long streams and token counts work as without it."""

import asyncio
import json
import shutil

import anthropic
import openai
import pytest
from gateways import KEY, QUICK, running, settings

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALL = {"name": "get_weather", "arguments": {"city": "Hanoi"}}
ANSWERS = {
    "weather": {"reasoning": "A tool knows it.", "text": "I look it up.", "tool_calls": [CALL]},
    "22 degrees in Hanoi": "It is warm.",
    "file": {
        "text": "word " * 2_000,
        "tool_calls": [{"name": "edit", "arguments": {"path": "a.py"}}],
    },
}
QUESTION = [{"role": "user", "content": "How is the weather?"}]


@pytest.fixture
def through(path, stormbreak_provider):
    provider = stormbreak_provider(QUICK, answers=ANSWERS)
    return running(path, settings(provider.base_url))


def weather(arguments):
    return f"22 degrees in {arguments['city']}"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_calls_a_tool_in_chat_completions(through, stream):
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": CITY}}]
    async with (
        through as gateway,
        openai.AsyncOpenAI(api_key=KEY, base_url=f"{gateway.url}/v1") as client,
    ):

        async def turn(messages):
            asked = {"model": "main", "messages": messages, "tools": tools}
            if not stream:
                return (await client.chat.completions.create(**asked)).choices[0].message
            async with client.chat.completions.stream(**asked) as chunks:
                return (await chunks.get_final_completion()).choices[0].message

        first = await turn(QUESTION)
        (call,) = first.tool_calls
        found = weather(json.loads(call.function.arguments))
        result = {"role": "tool", "tool_call_id": call.id, "content": found}
        call_message = {"role": "assistant", "content": first.content, "tool_calls": [
            {"id": call.id, "type": "function", "function": {
                "name": call.function.name, "arguments": call.function.arguments}}]}  # fmt: skip
        assert first.content == "I look it up."
        assert (await turn([*QUESTION, call_message, result])).content == "It is warm."


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_calls_a_tool_in_responses(through, stream):
    tools = [{"type": "function", "name": "get_weather", "parameters": CITY, "strict": False}]
    async with (
        through as gateway,
        openai.AsyncOpenAI(api_key=KEY, base_url=f"{gateway.url}/v1") as client,
    ):

        async def turn(turns):
            asked = {"model": "main", "input": turns, "tools": tools}
            if not stream:
                return await client.responses.create(**asked)
            async with client.responses.stream(**asked) as events:
                return await events.get_final_response()

        first = await turn(QUESTION)
        reasoning, _, call = first.output
        assert reasoning.summary[0].text == "A tool knows it."
        found = weather(json.loads(call.arguments))
        result = {"type": "function_call_output", "call_id": call.call_id, "output": found}
        fields = {"name", "arguments", "call_id", "type"}
        call_message = call.model_dump(include=fields)
        assert (await turn([*QUESTION, call_message, result])).output_text == "It is warm."


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_calls_a_tool_in_messages(through, stream):
    tools = [{"name": "get_weather", "input_schema": CITY}]

    def use(url):
        with anthropic.Anthropic(api_key=KEY, base_url=url) as client:

            def turn(messages):
                asked = {"model": "main", "messages": messages, "tools": tools, "max_tokens": 1000}
                if not stream:
                    return client.messages.create(**asked)
                with client.messages.stream(**asked) as events:
                    return events.get_final_message()

            first = turn(QUESTION)
            thinking, _, call = first.content
            assert (thinking.thinking, first.stop_reason) == ("A tool knows it.", "tool_use")
            found = {"type": "tool_result", "tool_use_id": call.id, "content": weather(call.input)}
            call_message = {"role": "assistant", "content": [
                {"type": "tool_use", "id": call.id, "name": call.name, "input": call.input}]}  # fmt: skip
            return (
                turn([*QUESTION, call_message, {"role": "user", "content": [found]}])
                .content[0]
                .text
            )

    async with through as gateway:
        assert await asyncio.to_thread(use, gateway.url) == "It is warm."


async def test_a_coding_agent_counts_tokens_and_reads_long_streams(through):
    """Its requests: a large cached system prompt, tools, several sessions at once, beta headers, `?beta=true`."""
    system = [{"type": "text", "text": "x" * 50_000, "cache_control": {"type": "ephemeral"}}]
    tools = [{"name": "edit", "input_schema": {"type": "object"}}]
    asked = {
        "model": "main",
        "system": system,
        "tools": tools,
        "messages": [{"role": "user", "content": "Please change this file."}],
    }
    async with (
        through as gateway,
        anthropic.AsyncAnthropic(api_key=KEY, base_url=gateway.url) as client,
    ):
        count = await client.messages.count_tokens(**asked)
        assert count.input_tokens > 12_000

        async def session():
            beta = client.beta.messages.stream(
                **asked, max_tokens=32_000, betas=["interleaved-thinking-2025-05-14"]
            )
            async with beta as stream:
                events = [event.type async for event in stream]
                return events, await stream.get_final_message()

        for events, message in await asyncio.gather(*(session() for _ in range(4))):
            assert events.count("content_block_delta") > 2_000
            assert message.content[0].text == "word " * 2_000
            assert message.content[1].input == {"path": "a.py"}
            assert message.usage.cache_creation_input_tokens > 12_000
        assert gateway.metric("requests_total") == 5


async def test_curl_gets_answers_streams_and_errors(through):
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    plain = {"model": "main", "messages": [{"role": "user", "content": "22 degrees in Hanoi"}]}

    async def curl(url, payload, *words):
        command = ["curl", "-sS", "--fail-with-body", url, "-d", json.dumps(payload), *words]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        return process.returncode, out

    async with through as gateway:
        url, key = f"{gateway.url}/v1/chat/completions", ("-H", f"Authorization: Bearer {KEY}")
        code, out = await curl(url, plain, *key)
        assert (code, json.loads(out)["choices"][0]["message"]["content"]) == (0, "It is warm.")
        code, out = await curl(url, {**plain, "stream": True}, "-N", *key)
        assert (code, out[-14:]) == (0, b"data: [DONE]\n\n")
        code, out = await curl(url, plain)
        assert (code, json.loads(out)["error"]["code"]) == (22, "missing_api_key")
