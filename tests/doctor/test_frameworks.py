"""Frameworks that are not installed here: their clients are found where the versions that were checked keep them."""

from types import SimpleNamespace

import httpx
import httpx2
import openai
import tenacity
from canary import KEY
from table_test import table_test

from stormbreak.doctor import examine
from stormbreak.httpx import Transport


def of(package, name="Thing", **kept):
    """An object whose class comes from a package."""
    thing = type(name, (), {"__module__": f"{package}.somewhere"})()
    vars(thing).update(kept)
    return thing


def sdk(**more):
    return openai.OpenAI(api_key=KEY, **more)


def said(thing):
    """What is said, by place."""
    told = {}
    for each in examine(thing):
        told[each.where] = f"{told.get(each.where, '')}{each.what}\n"
    return told


@table_test(
    ("thing", "where"),
    [
        (lambda: of("langchain_openai", root_client=sdk()), "client.root_client"),
        (lambda: of("langchain_anthropic", _async_client=sdk()), "client._async_client"),
        (lambda: of("pydantic_ai", client=sdk()), "client.client"),
        (lambda: of("pydantic_ai", model=of("pydantic_ai", client=sdk())), "client.model.client"),
        (
            lambda: of("pydantic_ai", models=[of("pydantic_ai", client=sdk())]),
            "client.models[0].client",
        ),
        (lambda: of("agents", model=of("agents", _client=sdk())), "client.model._client"),
        (lambda: of("instructor", client=sdk()), "client.client"),
    ],
)
def test_the_client_of_a_framework(thing, where):
    assert f"{where}.timeout" in said(thing())


def test_both_clients_of_a_model_are_looked_at():
    model = of(
        "langchain_openai", root_client=sdk(timeout=None), root_async_client=sdk(timeout=None)
    )
    assert {"client.root_client.timeout", "client.root_async_client.timeout"} <= said(model).keys()


def test_langchain_s_with_retry_multiplies():
    model = of("langchain_openai", root_client=sdk())
    retrying = of("langchain_core", "RunnableRetry", bound=model, max_attempt_number=4)
    assert "up to 12 times: 4 (langchain_core.RunnableRetry) x 3" in said(retrying)["client"]


def llama(**more):
    kept = {"max_retries": 3, "timeout": 60.0, "reuse_client": True, "_client": None}
    return of("llama_index", "OpenAI", **kept | more)


def test_llama_index_counts_its_retries_twice():
    """12 requests were measured for a permanent 429."""
    assert "up to 12 times: 3 (llama_index.OpenAI) x 4" in said(llama())["client"]
    made = sdk(max_retries=3, timeout=60)
    assert "up to 12 times" in said(llama(_client=made))["client"]


def test_llama_index_over_a_door_multiplies_until_it_is_told_not_to():
    http = httpx.Client(transport=Transport())
    assert "up to 18 times" in said(llama(_http_client=http))["client"]
    assert said(llama(_http_client=http, max_retries=0)) == {}


def test_a_client_for_each_call():
    assert (
        said(llama(reuse_client=False))["client.reuse_client"]
        == "a client is created for each call\n"
    )


@table_test("milliseconds", [None, 5000])
def test_google_times_each_request(milliseconds):
    retrying = SimpleNamespace(stop=tenacity.stop_after_attempt(4))
    options = SimpleNamespace(timeout=milliseconds)
    inner = of("google", _httpx_client=httpx2.Client(), _http_options=options, _retry=retrying)
    told = said(of("google", _api_client=inner))
    assert ("client._api_client._http_options.timeout" in told) == (milliseconds is None)
    assert "attempts per call: 4" in told["client"]


@table_test("milliseconds", [None, 5000])
def test_mistral_times_each_request(milliseconds):
    kept = {"client": httpx2.Client(), "timeout_ms": milliseconds}
    told = said(of("mistralai", sdk_configuration=of("mistralai", **kept)))
    assert ("client.sdk_configuration.timeout_ms" in told) == (milliseconds is None)


def test_what_cannot_be_reached_is_said():
    told = examine(of("litellm", "Router", num_retries=2))
    assert [each.name for each in told] == ["no-policy", "not-reached"]
    assert "attempts per call: 3 (litellm.Router)" in told[0].what


def test_a_property_that_fails_is_passed_over():
    class Model:
        __module__ = "pydantic_ai.models"
        model = property(lambda self: 1 / 0)

        def __init__(self):
            self.client = sdk()

    assert "client.client.timeout" in said(Model())


def test_a_ring_is_left():
    ring = of("pydantic_ai", client=sdk())
    ring.wrapped = ring
    assert said(ring).keys() == {"client", "client.client.timeout"}
