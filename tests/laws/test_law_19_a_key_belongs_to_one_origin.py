"""Law 19. A key belongs to one origin and is never sent to another; redirects are never followed; no key over plain http to
another machine; no `?key=` in a URL; files are for their owner only.

test_canary.py checks that neither key nor prompt appears in anything that is shown or written;
this file checks where they may go.
"""

import json
import os
import stat
from contextlib import suppress
from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

import httpx2
import msgspec
import pytest
from batches import chat_rows, write
from canary import KEY, PROMPT, assert_clean, shown_by
from chat_stream import WHOLE
from hypothesis import assume, example, given
from hypothesis import strategies as st
from rich.pretty import pretty_repr
from sockets import BODY, answer, failing, served
from table_test import table_test

from stormbreak.batch.job import Job, run_job
from stormbreak.batch.run_options import BatchOptions
from stormbreak.core.backoff import Backoff
from stormbreak.core.fallback_policy import CachePolicy, Place, ToCache, ToTargets
from stormbreak.core.policy import Policy
from stormbreak.core.presets import for_batch
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import CallError, ConfigurationError
from stormbreak.hidden_keys import may_be_secret
from stormbreak.http.client import AsyncClient
from stormbreak.http.endpoint import find_endpoint, is_loopback, origin_of, same_origin
from stormbreak.http.h1.response_parser import ResponseParser
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.http.redact import SECRET, redact
from stormbreak.http.response import WholeAnswer
from stormbreak.httpx2 import AsyncTransport
from stormbreak.llm.parsed_response import HttpResponse, ParsedResponse
from stormbreak.llm.providers import PRESETS
from stormbreak.types import Verdict

SAY = [{"role": "user", "content": PROMPT}]
PAYLOAD = {"messages": SAY, "input": PROMPT, "max_tokens": 9}
ENDPOINTS = ("chat/completions", "responses", "messages", "embeddings", "audio/speech?key=x")
KEYS = {"own": "own-canary-0123456789", "second": "second-canary-0123456789"}
ONCE = RetryPolicy(max_attempts=1)


@pytest.fixture(autouse=True)
def no_provider_variables(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.endswith(("_API_KEY", "_BASE_URL")):
            monkeypatch.delenv(name)


def received_by(server):
    """All requests that a server received."""
    return repr([(each.line, each.headers, each.body) for each in server.requests])


async def ask_all(client):
    """Call every endpoint; results do not matter."""
    for endpoint in ENDPOINTS:
        with suppress(CallError):
            await client.request(endpoint, PAYLOAD)
        with suppress(CallError):
            async with client.stream(endpoint, PAYLOAD) as stream:
                await stream.answer()


# ------------------------------------------------------------ a key goes to no other origin


@table_test("status", range(300, 309))
async def test_no_redirect_is_followed(status):
    async with served() as other:
        where = f"{other.base_url}/chat/completions"
        for location in (
            where,
            where.replace("http:", ""),
            where.replace("127.0.0.1", "localhost"),
        ):
            async with served(answer(b"", status, location=location)) as server:
                given = {"base_url": server.base_url, "api_key": KEY, "model": "m"}
                async with AsyncClient(**given, policy=Policy(retry=ONCE, breaker=None)) as client:
                    await ask_all(client)
                assert len(server.requests) == 2 * len(ENDPOINTS)
    assert (other.opened, other.requests) == (0, [])


async def test_a_fallback_gets_only_its_own_key(monkeypatch):
    """To another address with a key, to one without, and back: every server gets only its own key."""
    monkeypatch.setenv("SECOND_KEY", KEYS["second"])
    async with (
        served(failing(500)) as own,
        served(failing(500)) as second,
        served(failing(500)) as third,
    ):
        places = (
            Place(base_url=second.base_url, api_key_env="SECOND_KEY"),
            Place(base_url=third.base_url),
            Place(model="large"),
        )
        policy = Policy(
            retry=ONCE, breaker=None, retry_budget=None, fallback=(ToTargets(targets=places),)
        )
        given = {"base_url": own.base_url, "api_key": KEYS["own"], "model": "m", "policy": policy}
        async with AsyncClient(**given) as client:
            await ask_all(client)

    assert min(len(own.requests), len(second.requests), len(third.requests)) >= len(ENDPOINTS)
    known = {name: {key for key in KEYS.values() if key in received_by(server)}
             for name, server in {"own": own, "second": second, "third": third}.items()}  # fmt: skip
    assert known == {"own": {KEYS["own"]}, "second": {KEYS["second"]}, "third": set()}
    for server in (own, second):
        assert all("canary" in repr(request.headers) for request in server.requests)


HOMES = {
    "STORMBREAK_API_KEY": "STORMBREAK_BASE_URL",
    "OPENAI_API_KEY": "OPENAI_BASE_URL",
} | {known.key_env: "" for known in PRESETS.values() if known.key_env != "OPENAI_API_KEY"}
HOMES.pop(None, None)
NEAR = [known.base_url for known in PRESETS.values() if known.key_env]
FAR = [
    "https://own.example/v1",
    "https://own.example:8443/v1",
    "https://own.example.evil.example/v1",
    "https://api.openai.com.evil.example/v1",
    "https://api.openai.com:8443/v1",
    "https://api.anthropic.com.:8443/v1",
]
URLS = st.sampled_from(NEAR + FAR)


@given(
    st.sets(st.sampled_from(sorted(HOMES))),
    st.dictionaries(st.sampled_from(["STORMBREAK_BASE_URL", "OPENAI_BASE_URL"]), URLS),
    st.none() | st.sampled_from(sorted(PRESETS)),
    st.none() | URLS,
)
def test_a_key_of_the_environment_goes_only_to_its_own_origin(keys, addresses, provider, base_url):
    """For any variables and addresses, a key goes to its own origin or to none."""
    environ = {name: f"key of {name}".replace(" ", "-") for name in keys} | addresses
    with suppress(ConfigurationError):
        origin = find_endpoint(provider, base_url=base_url, environ=environ).origin
        if origin.api_key is None:
            return
        name = origin.api_key.removeprefix("key-of-")
        homes = [known.base_url for known in PRESETS.values() if known.key_env == name]
        homes += [addresses[HOMES[name]]] if HOMES[name] in addresses else []
        assert any(same_origin(origin.base_url, home) for home in homes)


async def test_another_address_does_not_get_the_key_of_the_environment(monkeypatch):
    async with served() as home, served() as other:
        for name in ("STORMBREAK", "OPENAI"):
            monkeypatch.setenv(f"{name}_BASE_URL", home.base_url)
            monkeypatch.setenv(f"{name}_API_KEY", KEY)
        for base_url in (None, other.base_url):
            async with AsyncClient(
                base_url=base_url, model="m", policy=Policy(retry=ONCE)
            ) as client:
                await ask_all(client)
    assert all(KEY in repr(request.headers) for request in home.requests)
    assert len(home.requests) == len(other.requests) == 2 * len(ENDPOINTS)
    assert KEY not in received_by(other)


COOKIE = "session=cookie-canary-0123456789; Path=/"


@table_test("stream", [False, True])
@table_test("way", ["led", "led, an error", "fallback", "own"])
async def test_a_cookie_goes_back_only_to_the_origin_that_set_it(
    way, stream, monkeypatch, tmp_path
):
    """The client of the SDK keeps cookies by the host that it asked, which is the same for all targets."""
    monkeypatch.setenv("TARGET_KEY", KEYS["second"])
    kind = "text/event-stream" if stream else "application/json"
    body = WHOLE if stream else BODY
    setting = answer(body, set_cookie=COOKIE, content_type=kind)
    if way == "led, an error":
        setting = failing(400, set_cookie=COOKIE)
    plain = answer(body, content_type=kind)
    first = {"fallback": failing(500), "own": setting}.get(way, plain)
    async with (
        served(first, plain) as own,
        served(setting) as target,
    ):
        place = f'base_url = "{target.base_url}"\napi_key_env = "TARGET_KEY"\n'
        file = tmp_path / "s.toml"
        file.write_text(
            "retry.max_attempts = 1\n[[fallback]]\nkind = 'targets'\n[[fallback.targets]]\n"
            f"{place}[targets.main]\n{place}model = 'm-led'\npolicy.fallback = []\n"
        )
        async with httpx2.AsyncClient(transport=AsyncTransport(str(file))) as http:
            model = "main" if way.startswith("led") else "m"
            for each in model, "m":
                payload = {"model": each, "messages": SAY, "stream": stream}
                answered = await http.post(f"{own.base_url}/chat/completions", json=payload)
                await answered.aread()
            cookies = dict(http.cookies)
    assert len(target.requests) == (0 if way == "own" else 1)
    assert bool(cookies) == (way == "own")
    assert ("canary" in str(own.requests[-1].headers.get("cookie"))) == (way == "own")
    assert "cookie" not in repr([each.headers for each in target.requests])


# ------------------------------------------------------------ a key is not readable on the way

ODD = ["localhost.evil.example", "127.0.0.1.evil.example", "127.1", "0.0.0.0", "[::]", "0x7f000001"]
HOSTS = st.sampled_from(ODD) | st.ip_addresses().map(
    lambda each: f"[{each}]" if each.version == 6 else str(each)
)


@given(HOSTS)
def test_plain_http_carries_a_key_to_loopback_only(host):
    base_url = f"http://{host}:8900/v1"
    if is_loopback(host.strip("[]")):
        assert host not in ODD
        return
    with pytest.raises(ConfigurationError, match="in the clear") as caught:
        origin_of(base_url, KEY)
    assert KEY not in repr(caught.value)
    assert origin_of(f"https://{host}:8900/v1", KEY).api_key == KEY


async def test_a_fallback_over_plain_http_carries_no_key(monkeypatch):
    monkeypatch.setenv("SPARE_KEY", KEY)
    place = Place(base_url="http://spare.example/v1", api_key_env="SPARE_KEY")
    policy = Policy(fallback=(ToTargets(targets=(place,)),))
    with pytest.raises(ConfigurationError, match="in the clear") as caught:
        AsyncClient(base_url="http://127.0.0.1:1/v1", policy=policy)
    assert KEY not in repr(caught.value)


NAMES = st.sampled_from(
    ["key", "KEY", "api_key", "Api-Key", "apikey", "x-api-key", "subscription-key", "access_token",
     "k%65y", "api%2Dkey", "+key", "key%20"]
)  # fmt: skip
PAIRS = st.lists(
    st.tuples(NAMES, st.just(KEY)) | st.tuples(st.sampled_from(["a", "api-version"]), st.just("1")),
    max_size=5,
)


@given(PAIRS)
def test_no_url_contains_a_key(pairs):
    """Neither the URL of a request nor a configured base URL."""
    query = "&".join(f"{name}={value}" for name, value in pairs)
    origin = origin_of(f"https://own.example/v1?{query}#{KEY}", KEY)
    url = origin.url_of(f"models?{query}")
    assert KEY not in f"{origin.base_url} {url}"
    assert parse_qsl(urlsplit(url).query) == [pair for pair in pairs if KEY not in pair]


async def test_a_key_in_the_url_of_an_endpoint_is_not_sent():
    async with (
        served() as server,
        AsyncClient(base_url=f"{server.base_url}?key={KEY}", model="m") as client,
    ):
        await client.request(f"chat/completions?api-version=1&key={KEY}", {"messages": SAY})
    assert server.requests[0].line == "POST /v1/chat/completions?api-version=1 HTTP/1.1"
    assert KEY not in received_by(server)


# ------------------------------------------------------------ a key is redacted in responses


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=SECRET),
    st.integers(0, 2),
    st.sampled_from([Verdict.AUTH, Verdict.SERVER_ERROR]),
    st.booleans(),
)
@example("0123456/", 2, Verdict.AUTH, True)  # a bug: only slashes escaped once were known
def test_a_key_of_any_form_is_redacted_in_a_response(key, depth, verdict, slashes):
    """Plain, in a JSON string, in JSON quoted in JSON; with slashes as some encoders write them."""
    assume(may_be_secret(key))
    text = f"no such key: <{key}>"
    for _ in range(depth):
        text = json.dumps(text)
        text = text.replace("/", r"\/") if slashes else text
    _, body = redact(ParsedResponse(verdict), text.encode(), api_key=key, request_body=b"{}")
    left = body.decode()
    for _ in range(depth):
        left = json.loads(left)
    assert "[...]" in left
    assert key not in left


async def test_an_error_about_a_redirect_names_no_key():
    location = f"https://{KEY}.evil.example/{KEY}?key={KEY}"
    async with served(answer(KEY.encode(), 307, location=location)) as server:
        given = {"base_url": server.base_url, "api_key": KEY, "model": "m"}
        async with AsyncClient(**given, policy=Policy(retry=ONCE)) as client:
            with pytest.raises(CallError) as caught:
                await client.chat(SAY)
    assert caught.value.verdict is Verdict.REDIRECTED
    assert_clean(shown_by(caught.value), "the error")


# ------------------------------------------------------------ reprs


def structs(kind=msgspec.Struct):
    """Yield the imported Structs of stormbreak."""
    for each in kind.__subclasses__():
        if each.__module__.startswith("stormbreak."):
            yield each
        yield from structs(each)


def test_rich_shows_no_more_than_a_repr():
    """Found: `rich` printed the key and the body of a request, also in tracebacks, past the repr that hides them."""
    request = PreparedRequest("https://x.example/", {"Authorization": KEY}, PROMPT.encode())
    answered = WholeAnswer(request)
    answered(HttpResponse(200, {"x-echo": KEY}, PROMPT.encode(), 0.0))
    parser = ResponseParser()
    parser.feed(f"HTTP/1.1 200 OK\r\nX: {KEY}\r\nContent-Length: 99\r\n\r\n{PROMPT}".encode())

    assert_clean(pretty_repr([request, answered, parser]), "what rich shows")
    own = [each for each in structs() if each.__repr__ is not msgspec.Struct.__repr__]
    assert [each for each in own if each.__rich_repr__ is not None] == []


# ------------------------------------------------------------ files are for their owner only


@pytest.fixture
def umask_zero():
    """A umask of 0: files with 0600 then were made so on purpose."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_every_file_is_for_its_owner_only(umask_zero, tmp_path, stormbreak_provider, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    place = tmp_path / "work"
    place.mkdir()
    source = write(tmp_path / "in.jsonl", chat_rows(30))
    fault = '\n[[faults]]\nkind = "400"\nshare = 0.5\n'
    provider = stormbreak_provider("[provider]\nservice = 0.0\nrequire_key = true\n" + fault)
    policy = replace(
        for_batch(
            Policy(
                retry=RetryPolicy(
                    max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.0)
                )
            )
        ),
        fallback=(ToCache(),),
        cache=CachePolicy(path=str(place / "answers.db")),
    )
    seen = {}

    def look(_):
        seen.update({path.name: path.stat().st_mode for path in place.iterdir()})

    job = Job(
        source=source,
        output=place / "out.jsonl",
        policy=policy,
        options=BatchOptions(base_url=provider.base_url, api_key_env="MY_KEY"),
    )
    summary = run_job(job, look)
    look(None)

    assert summary.successful
    assert summary.failed
    names = {"out.jsonl", "out.failed.jsonl", "out.jsonl.run", "out.jsonl.lock", "answers.db"}
    assert names <= set(seen)
    assert {name: stat.S_IMODE(mode) for name, mode in seen.items()} == dict.fromkeys(seen, 0o600)
    for path in place.iterdir():
        assert KEY.encode() not in path.read_bytes(), path.name
