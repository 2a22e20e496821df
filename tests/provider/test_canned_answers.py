"""Canned answers: a test chooses the answers of the provider, in every format, plain and streamed."""

import json

import anthropic
import openai
import pytest
from table_test import table_test

from stormbreak.errors import ConfigurationError
from stormbreak.provider.canned_answers import answer_for
from stormbreak.provider.scenario_file import dump, load_answers, parse
from stormbreak.testing import answer_text, serve

HELLO = [{"role": "user", "content": "Hello?"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 3}},
    "required": ["city", "days"],
}
FUNCTION = {"name": "get_weather", "parameters": SCHEMA}
CALL = {"name": "get_weather", "arguments": {"city": "Hà Nội", "days": 2}}
FULL = {"text": "I look\nit up.", "reasoning": "A tool knows it.", "tool_calls": [CALL, CALL]}
SCENARIO = "[provider]\nservice = 0\n"


@pytest.fixture
def say(stormbreak_provider):
    """Start a provider with one answer to everything; return the SDKs' clients."""
    clients = []

    def start(answer, scenario=SCENARIO):
        provider = stormbreak_provider(scenario, answers={"": answer})
        url = provider.base_url
        clients.append(openai.OpenAI(base_url=url, api_key="any", max_retries=0))
        clients.append(anthropic.Anthropic(base_url=url[:-3], api_key="any", max_retries=0))
        return provider, *clients[-2:]

    yield start
    for client in clients:
        client.close()


# ---------------------------------------------------------------- each format


def test_a_chat_completion_has_text_reasoning_and_calls(say):
    _, client, _ = say(FULL)
    answer = client.chat.completions.create(model="m", messages=HELLO)
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("I look\nit up.", "tool_calls")
    assert choice.message.reasoning_content == "A tool knows it."
    first, second = choice.message.tool_calls
    assert first.id != second.id
    assert (first.function.name, json.loads(first.function.arguments)) == tuple(CALL.values())


def test_a_streamed_chat_completion_equals_the_plain_one(say):
    _, client, _ = say(FULL)
    plain = client.chat.completions.create(model="m", messages=HELLO)
    with client.chat.completions.stream(model="m", messages=HELLO) as stream:
        chunks = [event.chunk for event in stream if event.type == "chunk"]
        whole = stream.get_final_completion()
    assert len(chunks) > 10
    message, streamed = plain.choices[0].message, whole.choices[0].message
    assert streamed.content == message.content
    assert [(c.id, c.function.arguments) for c in streamed.tool_calls] == [
        (c.id, c.function.arguments) for c in message.tool_calls
    ]
    assert whole.choices[0].finish_reason == "tool_calls"
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    reasoning = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert reasoning == "A tool knows it."


def test_a_response_has_reasoning_text_and_calls(say):
    _, client, _ = say(FULL)
    plain = client.responses.create(model="m", input="Hello?")
    assert [item.type for item in plain.output] == [
        "reasoning", "message", "function_call", "function_call",
    ]  # fmt: skip
    assert plain.output_text == "I look\nit up."
    assert plain.output[0].summary[0].text == "A tool knows it."
    assert json.loads(plain.output[2].arguments) == CALL["arguments"]
    events = [*client.responses.create(model="m", input="Hello?", stream=True)]
    assert events[-1].response.to_dict() == plain.to_dict()
    assert [event.sequence_number for event in events] == [*range(len(events))]
    arguments = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(arguments) == plain.output[2].arguments * 2


def test_a_message_has_thinking_text_and_calls(say):
    _, _, client = say(FULL)
    asked = {"model": "m", "messages": HELLO, "max_tokens": 100}
    plain = client.messages.create(**asked)
    assert [block.type for block in plain.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert plain.stop_reason == "tool_use"
    assert plain.content[0].thinking == "A tool knows it."
    assert plain.content[2].input == CALL["arguments"]
    with client.messages.stream(**asked) as stream:
        whole = stream.get_final_message()
    assert whole.content[0] == plain.content[0]
    assert whole.content[1].text == plain.content[1].text == "I look\nit up."
    assert whole.content[2:] == plain.content[2:]
    assert whole.stop_reason == "tool_use"
    assert whole.usage.output_tokens == plain.usage.output_tokens


def test_a_message_may_have_tool_calls_without_text(say):
    _, client, claude = say({"tool_calls": [CALL]})
    message = client.chat.completions.create(model="m", messages=HELLO).choices[0].message
    assert message.content is None
    (block,) = claude.messages.create(model="m", messages=HELLO, max_tokens=100).content
    assert block.type == "tool_use"


def test_generated_arguments_fit_the_schema_of_the_tool(say):
    _, client, claude = say({"tool_calls": [{"name": "get_weather"}]})
    chat = client.chat.completions.create(
        model="m", messages=HELLO, tools=[{"type": "function", "function": FUNCTION}]
    )
    response = client.responses.create(
        model="m", input="Hello?", tools=[{"type": "function", **FUNCTION, "strict": False}]
    )
    tool = {"name": "get_weather", "input_schema": SCHEMA}
    message = claude.messages.create(model="m", messages=HELLO, max_tokens=100, tools=[tool])
    found = [
        json.loads(chat.choices[0].message.tool_calls[0].function.arguments),
        json.loads(response.output[0].arguments),
        message.content[0].input,
    ]
    for arguments in found:
        assert isinstance(arguments["city"], str)
        assert arguments["days"] >= 3


def test_each_choice_has_its_text(say):
    _, client, _ = say({"choices": ["Heads.", "Tails."]})
    answer = client.chat.completions.create(model="m", messages=HELLO, n=3)
    texts = [choice.message.content for choice in answer.choices]
    assert texts == ["Heads.", "Tails.", "Heads."]
    assert answer.usage.completion_tokens == 9
    stream = client.chat.completions.create(model="m", messages=HELLO, n=2, stream=True)
    streamed = {0: "", 1: ""}
    for chunk in stream:
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == {0: "Heads.", 1: "Tails."}


def test_generated_choices_differ(stormbreak_provider):
    provider = stormbreak_provider(SCENARIO)
    asked = {"model": "m", "messages": HELLO, "n": 2}
    with openai.OpenAI(base_url=provider.base_url, api_key="any") as client:
        first, second = client.chat.completions.create(**asked).choices
    assert first.message.content == answer_text(asked) != second.message.content


def test_canned_reasoning_without_text_gets_a_generated_text(say):
    _, client, _ = say({"reasoning": "Hm."})
    asked = {"model": "m", "messages": HELLO}
    message = client.chat.completions.create(**asked).choices[0].message
    assert (message.content, message.reasoning_content) == (answer_text(asked), "Hm.")


def test_usage_counts_the_canned_text_up_to_max_tokens(say):
    provider, client, _ = say("one two three four five six")
    free = client.chat.completions.create(model="m", messages=HELLO)
    bound = client.chat.completions.create(model="m", messages=HELLO, max_tokens=4)
    assert (free.usage.completion_tokens, bound.usage.completion_tokens) == (8, 4)
    assert provider.stats()["billed"]["m"]["output_tokens"] == 12


def test_a_fault_breaks_a_canned_answer_too(say):
    _, client, _ = say("It is warm in Hanoi today.", SCENARIO + '[[faults]]\nkind = "cut_body"\n')
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model="m", messages=HELLO)


def test_a_fault_empties_the_choices_of_a_canned_answer(say):
    _, client, _ = say("It is warm.", SCENARIO + '[[faults]]\nkind = "empty_choices"\n')
    assert client.chat.completions.create(model="m", messages=HELLO).choices == []


# ---------------------------------------------------------------- which answer


def test_the_first_answer_that_matches_the_newest_messages_is_used():
    answers = parse("""
        [[answers]]
        match = 'say "hi"'
        text = "one"
        [[answers]]
        match = "again"
        requests = [7]
        text = "two"
        [[answers]]
        match = "again"
        text = "three"
    """).answers

    def found(number, *contents, key="messages"):
        turns = [{"role": "user", "content": each} for each in contents]
        turns[1::2] = [{**turn, "role": "assistant"} for turn in turns[1::2]]
        answer = answer_for(answers, {key: turns}, number)
        return answer and answer.text

    assert found(1, 'please say "hi"') == "one"
    assert found(1, 'please say "hi"', "hi", "again") == "three"  # the first has its answer
    assert found(7, 'please say "hi"', "hi", "again") == "two"
    assert found(7, "again", "again", "no more", key="input") is None
    assert answer_for(answers, {"input": "again"}, 1).text == "three"
    calls = [
        {"type": "function_call", "name": "again"},
        {"type": "function_call_output", "output": "x"},
    ]
    assert answer_for(answers, {"input": calls}, 1) is None
    assert answer_for(answers, {}, 1) is None


def test_a_request_without_a_matching_answer_gets_a_generated_one(stormbreak_provider):
    provider = stormbreak_provider(SCENARIO, answers={"other": "no"})
    asked = {"model": "m", "messages": HELLO}
    with openai.OpenAI(base_url=provider.base_url, api_key="any") as client:
        answer = client.chat.completions.create(**asked)
    assert answer.choices[0].message.content == answer_text(asked)


# ---------------------------------------------------------------- files


def test_answers_are_read_from_a_file_and_dumped_unchanged(tmp_path):
    path = tmp_path / "answers.toml"
    path.write_text("""
        [[answers]]
        match = "weather"
        reasoning = "A tool knows it."
        [[answers.tool_calls]]
        name = "get_weather"
        arguments = { city = "Hanoi", days = [1, 2.5, true] }
        [[answers]]
        choices = ["Heads.", "Tails."]
    """)
    answers = load_answers(path)
    assert answers[0].tool_calls[0].arguments == {"city": "Hanoi", "days": [1, 2.5, True]}
    scenario = parse(path.read_text())
    assert scenario.answers == answers
    assert parse(dump(scenario)).answers == answers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[answers]]\ntxt = "a"', r"unknown key answers\[0\].txt = 'a'; did you mean text\?"),
        ("[[answers]]\ntext = 3", r"answers\[0\].text must be a string, got 3"),
        ('[[answers]]\ntext = "a"\nchoices = ["b"]', r"answers\[0\].text cannot be combined with choices"),
        ("[[answers]]\nrequests = [0]", r"answers\[0\].requests must be at least 1, got 0"),
        ("[[answers]]\ntool_calls = [{}]", r"answers\[0\].tool_calls\[0\] lacks name"),
        ('[[faults]]\nkind = "503"', "unknown key faults = a list; known: answers"),
        ("answers = 1 1", "invalid TOML"),
    ],
)  # fmt: skip
def test_an_error_in_an_answers_file_names_file_and_key(tmp_path, text, message):
    path = tmp_path / "answers.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=f"answers.toml: .*{message}"):
        load_answers(path)


@table_test(
    ("answer", "message"),
    [({"txt": "a"}, "unknown key answers.weather.txt"), (3, "answers.weather must be a table")],
)
def test_an_error_in_an_answer_from_python_names_its_match(answer, message):
    with pytest.raises(ConfigurationError, match=message), serve(answers={"weather": answer}):
        pass
