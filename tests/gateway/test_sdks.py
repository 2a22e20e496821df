"""The SDKs of openai and anthropic through the gateway: only base URL and key change."""

import asyncio
import socket

import anthropic
import openai
import pytest
from gateways import CHAT, KEY, QUICK, running, settings
from malformed_requests import MALFORMED
from table_test import table_test

from stormbreak.testing import answer_text

ASKED = {"model": "main", "messages": CHAT["messages"]}
TEXT = answer_text({**ASKED, "model": "storm-1"})
MESSAGE = {**ASKED, "max_tokens": 100}
MESSAGE_TEXT = answer_text({**MESSAGE, "model": "storm-1"})


@pytest.fixture
def through(path, stormbreak_provider):
    """Start a gateway in front of a provider with a scenario; its policy makes one attempt."""

    def start(scenario=QUICK, **options):
        provider = stormbreak_provider(scenario)
        options = {"top": "[retry]\nmax_attempts = 1\n", **options}
        return running(path, settings(provider.base_url, **options)), provider

    return start


def fault(kind, more=""):
    return f'{QUICK}[[faults]]\nkind = "{kind}"\n{more}'


async def test_openai_gets_answers_streams_and_raw_responses(through):
    start, _ = through()
    async with (
        start as gateway,
        openai.AsyncOpenAI(api_key=KEY, base_url=f"{gateway.url}/v1") as client,
    ):
        answer = await client.chat.completions.create(**ASKED)
        assert answer.choices[0].message.content == TEXT
        raw = await client.chat.completions.with_raw_response.create(**ASKED)
        assert raw.headers["x-stormbreak-attempts"] == "1"
        assert raw.parse().usage.total_tokens > 0
        text = ""
        async for chunk in await client.chat.completions.create(**ASKED, stream=True):
            text += chunk.choices[0].delta.content or ""
        assert text == TEXT
        usage = [
            chunk.usage
            async for chunk in await client.chat.completions.create(
                **ASKED, stream=True, stream_options={"include_usage": True}
            )
        ]
        assert usage[-1].total_tokens > 0
        response = await client.responses.create(model="main", input="hi")
        assert response.output_text
        events = [
            e.type
            async for e in await client.responses.create(model="main", input="hi", stream=True)
        ]
        assert events[-1] == "response.completed"
        vectors = await client.embeddings.create(model="main", input=["a", "b"])
        assert len(vectors.data) == 2
        assert [model.id async for model in client.models.list()] == ["main"]


async def test_openai_gets_text_completions(through):
    start, _ = through(key="tpm = 100000\n")
    asked = {"model": "main", "prompt": "Once upon a time"}
    async with (
        start as gateway,
        openai.AsyncOpenAI(api_key=KEY, base_url=f"{gateway.url}/v1") as client,
    ):
        answer = await client.completions.create(**asked)
        assert answer.choices[0].text == answer_text({**asked, "model": "storm-1"})
        assert answer.usage.total_tokens > 0
        text = ""
        async for chunk in await client.completions.create(**asked, stream=True):
            assert chunk.usage is None  # the gateway requested usage, not the client
            text += chunk.choices[0].text
        assert text == answer.choices[0].text
        with pytest.raises(openai.BadRequestError, match="prompt"):
            await client.completions.create(model="main", prompt=[])


async def test_the_blocking_openai_client_works_unchanged(through):
    start, _ = through()

    def use(url):
        with openai.OpenAI(api_key=KEY, base_url=f"{url}/v1") as client:
            raw = client.chat.completions.with_raw_response.create(**ASKED)
            assert raw.headers["x-stormbreak-attempts"] == "1"
            assert raw.parse().choices[0].message.content == TEXT
            with client.chat.completions.create(**ASKED, stream=True) as stream:
                return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    async with start as gateway:
        assert await asyncio.to_thread(use, gateway.url) == TEXT


async def test_anthropic_gets_messages_and_streams(through):
    start, _ = through()

    def use(url):
        with anthropic.Anthropic(api_key=KEY, base_url=url) as client:
            raw = client.messages.with_raw_response.create(**MESSAGE)
            assert raw.headers["x-stormbreak-attempts"] == "1"
            assert raw.parse().content[0].text == MESSAGE_TEXT
            with client.messages.stream(**MESSAGE) as stream:
                return stream.get_final_text()

    async with start as gateway:
        assert await asyncio.to_thread(use, gateway.url) == MESSAGE_TEXT
        async with anthropic.AsyncAnthropic(api_key=KEY, base_url=gateway.url) as client:
            raw = await client.messages.with_raw_response.create(**MESSAGE)
            assert raw.headers["x-stormbreak-attempts"] == "1"
            async with client.messages.stream(**MESSAGE) as stream:
                assert await stream.get_final_text() == MESSAGE_TEXT
            beta = await client.beta.messages.create(**MESSAGE)
            assert beta.content[0].text == MESSAGE_TEXT


@table_test(
    ("kind", "status", "name"),
    [
        ("400", 400, "BadRequestError"),
        ("401", 502, "APIStatusError"),  # about the gateway's own key
        ("model_not_found", 404, "NotFoundError"),
        ("422", 422, "UnprocessableEntityError"),
        ("429", 429, "RateLimitError"),
        ("500", 500, "InternalServerError"),
        ("503", 503, "APIStatusError"),
        ("reset", 502, "APIStatusError"),
        ("hang", 504, "APIStatusError"),
        ("html_200", 502, "APIStatusError"),
    ],
)
@table_test("library", [openai, anthropic])
async def test_errors_have_the_class_of_the_sdk_and_are_not_retried(
    through, kind, status, name, library
):
    """The SDKs retry twice by default, which would multiply the attempts of the gateway."""
    patience = 0.3 if kind == "hang" else 10  # a busy machine is no failure
    top = f"attempt_timeout = {patience}\n[retry]\nmax_attempts = 1\n"
    start, _ = through(fault(kind), top=top)
    async with start as gateway:
        with pytest.raises(getattr(library, name)) as caught:
            await ask(library, gateway.url)
        assert gateway.metric("requests_total") == 1
    assert caught.value.status_code == status


async def test_an_sdk_gets_a_504_before_its_own_timeout_and_does_not_retry(through):
    start, _ = through(fault("hang"))
    async with start as gateway:
        asking = [
            ask(library, gateway.url, stream=stream, seconds=5)
            for library in (openai, anthropic)
            for stream in (False, True)
        ]
        errors = await asyncio.gather(*asking, return_exceptions=True)
        assert gateway.metric("requests_total") == 4
    assert [error.status_code for error in errors] == [504] * 4


async def test_an_sdk_does_not_retry_during_an_outage(through):
    """Without the gateway an SDK makes three attempts for each call."""
    start, provider = through(fault("503"), top="patience = 1\n")
    async with (
        start as gateway,
        openai.AsyncOpenAI(api_key=KEY, base_url=f"{gateway.url}/v1", timeout=600) as client,
    ):
        # One client: creating sixty is so slow on a busy machine that the calls would not be concurrent.
        asking = [client.chat.completions.create(**ASKED) for _ in range(60)]
        errors = await asyncio.gather(*asking, return_exceptions=True)
        assert gateway.metric("requests_total") == 60
    assert {error.status_code for error in errors} == {503}
    assert 0 < provider.stats()["arrivals"] <= 60 * 1.1


async def ask(library, url, *, stream=False, seconds=600):
    if library is openai:
        async with openai.AsyncOpenAI(api_key=KEY, base_url=f"{url}/v1", timeout=seconds) as client:
            answer = await client.chat.completions.create(**ASKED, stream=stream)
            return [chunk async for chunk in answer] if stream else answer
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=url, timeout=seconds) as client:
        answer = await client.messages.create(**MESSAGE, stream=stream)
        return [chunk async for chunk in answer] if stream else answer


@table_test("kind", ["cut_body", "stall", "stream_reset"])
@table_test("library", [openai, anthropic])
async def test_a_broken_stream_raises_in_the_sdk(through, kind, library):
    start, _ = through(fault(kind), top="stall_timeout = 0.3\n")
    async with start as gateway:
        with pytest.raises(library.APIError, match="the stream broke"):
            await ask(library, gateway.url, stream=True)


async def test_a_wrong_key_is_an_authentication_error(through):
    start, _ = through()
    async with start as gateway:
        async with openai.AsyncOpenAI(api_key="sb-x", base_url=f"{gateway.url}/v1") as client:
            with pytest.raises(openai.AuthenticationError):
                await client.chat.completions.create(**ASKED)
        async with anthropic.AsyncAnthropic(api_key="sb-x", base_url=gateway.url) as client:
            with pytest.raises(anthropic.AuthenticationError):
                await client.messages.create(**MESSAGE)


async def test_an_sdk_retries_a_key_limit_after_the_named_time(through):
    limits = "rpm = 60\n"
    start, provider = through(key=limits, top="patience = 0.1\n")
    async with start as gateway:
        async with openai.AsyncOpenAI(
            api_key=KEY, base_url=f"{gateway.url}/v1", max_retries=2
        ) as client:
            asked, limited = 0, 0
            while not limited:  # a pause of the machine may be as long as the limit
                await client.chat.completions.create(**ASKED)
                asked += 1
                limited = gateway.metric(
                    'requests_total{key="app",endpoint="/v1/chat/completions",status="429"'
                )
                assert asked < 30
        assert (asked > 1, limited) == (True, 1)
    assert provider.stats()["arrivals"] == asked


async def test_malformed_requests_get_one_400_and_affect_no_other_client(through):
    start, provider = through()

    def send(port, data):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(data)
            got = b""
            while piece := client.recv(65536):
                got += piece
        return got

    async with start as gateway:
        for name, data in MALFORMED.items():
            got = await asyncio.to_thread(send, gateway.gateway.port, data)
            assert got.startswith(b"HTTP/1.1 400 "), name
            assert got.count(b"HTTP/1.1 4") == 1, name
            assert b"unreadable_request" in got, name
        assert (await gateway.ask()).status == 200
    assert provider.stats()["arrivals"] == 1
