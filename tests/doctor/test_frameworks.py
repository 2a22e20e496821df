"""Frameworks that are not installed here: their clients are found where the checked versions keep them."""

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
    """Return an object whose class belongs to a package."""
    thing = type(name, (), {"__module__": f"{package}.somewhere"})()
    vars(thing).update(kept)
    return thing


def sdk(**more):
    return openai.OpenAI(api_key=KEY, **more)


def findings_of(thing):
    """Return the findings, by place."""
    findings = {}
    for each in examine(thing):
        findings[each.where] = f"{findings.get(each.where, '')}{each.what}\n"
    return findings


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
def test_the_sdk_client_of_a_framework_is_found(thing, where):
    assert f"{where}.timeout" in findings_of(thing())


def test_both_clients_of_a_model_are_examined():
    model = of(
        "langchain_openai", root_client=sdk(timeout=None), root_async_client=sdk(timeout=None)
    )
    assert {"client.root_client.timeout", "client.root_async_client.timeout"} <= findings_of(
        model
    ).keys()


def test_langchain_s_with_retry_multiplies():
    model = of("langchain_openai", root_client=sdk())
    retrying = of("langchain_core", "RunnableRetry", bound=model, max_attempt_number=4)
    assert "up to 12 times: 4 (langchain_core.RunnableRetry) x 3" in findings_of(retrying)["client"]


def llama(**more):
    kept = {"max_retries": 3, "timeout": 60.0, "reuse_client": True, "_client": None}
    return of("llama_index", "OpenAI", **kept | more)


def test_llama_index_counts_its_retries_twice():
    """12 requests were measured for a permanent 429."""
    assert "up to 12 times: 3 (llama_index.OpenAI) x 4" in findings_of(llama())["client"]
    made = sdk(max_retries=3, timeout=60)
    assert "up to 12 times" in findings_of(llama(_client=made))["client"]


def test_llama_index_over_our_transport_multiplies_unless_max_retries_is_zero():
    http = httpx.Client(transport=Transport())
    assert "up to 18 times" in findings_of(llama(_http_client=http))["client"]
    assert findings_of(llama(_http_client=http, max_retries=0)) == {}


def test_a_client_created_for_each_call_is_reported():
    assert (
        findings_of(llama(reuse_client=False))["client.reuse_client"]
        == "a client is created for each call\n"
    )


@table_test("milliseconds", [None, 5000])
def test_a_missing_timeout_of_google_is_reported(milliseconds):
    retrying = SimpleNamespace(stop=tenacity.stop_after_attempt(4))
    options = SimpleNamespace(timeout=milliseconds)
    inner = of("google", _httpx_client=httpx2.Client(), _http_options=options, _retry=retrying)
    findings = findings_of(of("google", _api_client=inner))
    assert ("client._api_client._http_options.timeout" in findings) == (milliseconds is None)
    assert "attempts per call: 4" in findings["client"]


@table_test("milliseconds", [None, 5000])
def test_a_missing_timeout_of_mistral_is_reported(milliseconds):
    kept = {"client": httpx2.Client(), "timeout_ms": milliseconds}
    findings = findings_of(of("mistralai", sdk_configuration=of("mistralai", **kept)))
    assert ("client.sdk_configuration.timeout_ms" in findings) == (milliseconds is None)


def test_a_client_that_cannot_be_examined_is_reported():
    findings = examine(of("litellm", "Router", num_retries=2))
    assert [each.name for each in findings] == ["no-policy", "not-reached"]
    assert "attempts per call: 3 (litellm.Router)" in findings[0].what


def test_a_property_that_raises_is_skipped():
    class Model:
        __module__ = "pydantic_ai.models"
        model = property(lambda self: 1 / 0)

        def __init__(self):
            self.client = sdk()

    assert "client.client.timeout" in findings_of(Model())


def test_a_cycle_of_objects_is_examined_once():
    ring = of("pydantic_ai", client=sdk())
    ring.wrapped = ring
    assert findings_of(ring).keys() == {"client", "client.client.timeout"}
