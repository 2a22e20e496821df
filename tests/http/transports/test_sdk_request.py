"""What the transport reads in a request: is it safe to retry, its endpoint, and its key."""

from table_test import table_test

from stormbreak.http.transports.sdk_request import SdkRequest, SdkTimeouts, read_timeouts
from stormbreak.http.transports.sdk_response import Failure
from stormbreak.http.transports.sdk_transport import KEPT, RecentFailures

JSON = {"content-type": "application/json"}


def post(url, **headers):
    return SdkRequest("POST", url, JSON | headers)


@table_test(
    ("url", "base", "endpoint"),
    [
        ("https://a/v1/chat/completions", "https://a/v1", "chat/completions"),
        ("https://a/v1/completions", "https://a/v1", "completions"),
        ("https://a/v1/fim/completions", "https://a/v1", "fim/completions"),
        ("https://a/v1/responses", "https://a/v1", "responses"),
        ("https://a/v1/embeddings", "https://a/v1", "embeddings"),
        ("https://a/v1/messages?beta=true", "https://a/v1", "messages"),
        ("https://a/v1/messages/count_tokens", "https://a/v1", "messages/count_tokens"),
        (
            "https://a:1/openai/deployments/d/chat/completions?api-version=1",
            "https://a:1/openai/deployments/d",
            "chat/completions",
        ),
    ],
)
def test_model_calls_are_recognised_by_their_url(url, base, endpoint):
    request = post(url)
    assert request.is_model_call
    assert request.place == (base, endpoint)


@table_test(
    "url",
    [
        "https://a/v1/files",
        "https://a/v1/images/generations",
        "https://a/v1/messages/batches",
        "https://a/v1/threads/t/messages",
        "https://a/v1/responses/r/cancel",
        "https://a/v1/notcompletions",
        "https://a/",
    ],
)
def test_other_urls_are_not_model_calls(url):
    assert not post(url).is_model_call


def test_forms_and_other_methods_are_not_model_calls():
    url = "https://a/v1/chat/completions"
    assert not SdkRequest(
        "POST", url, {"content-type": "multipart/form-data; boundary=x"}
    ).is_model_call
    assert not SdkRequest("DELETE", url, JSON).is_model_call


def test_a_get_that_accepts_json_is_a_lookup():
    url = "https://a/v1/models"
    assert SdkRequest("GET", url, {"accept": "application/json"}).is_lookup
    assert not SdkRequest("GET", url, {"accept": "*/*"}).is_lookup
    assert not SdkRequest("GET", url, {"accept": "text/event-stream"}).is_lookup


@table_test(
    ("headers", "url", "key"),
    [
        ({"authorization": "Bearer k"}, "https://a/", "k"),
        ({"x-api-key": "k"}, "https://a/", "k"),
        ({"api-key": "k"}, "https://a/", "k"),
        ({"x-goog-api-key": "k"}, "https://a/", "k"),
        ({}, "https://a/?alt=sse&key=k", "k"),
        ({"authorization": ""}, "https://a/", None),
    ],
)
def test_the_key_is_read_from_headers_or_query(headers, url, key):
    assert SdkRequest("GET", url, headers).key == key


def test_timeouts_of_the_library_are_read():
    assert read_timeouts({"timeout": {"connect": 5.0, "read": None, "pool": 1}}) == SdkTimeouts(
        5.0, None
    )
    assert read_timeouts({}) == SdkTimeouts()


def test_only_a_retry_of_the_sdk_finds_the_earlier_failure():
    now = [0.0]
    failures = RecentFailures(lambda: now[0])
    failure = Failure("ReadTimeout", "m", None)
    url = "https://a/v1/messages"
    failures.keep(post(url), b"a", failure)
    retry = post(url, **{"x-stainless-retry-count": "1"})
    assert failures.find(retry, b"a") is failure
    assert failures.find(post(url), b"a") is None
    assert failures.find(post(url, **{"x-stainless-retry-count": "0"}), b"a") is None
    assert failures.find(retry, b"b") is None
    assert failures.find(retry._replace(headers=retry.headers | {"x-api-key": "k"}), b"a") is None
    now[0] = KEPT
    assert failures.find(retry, b"a") is None


def test_the_number_of_kept_failures_is_bounded():
    failures = RecentFailures(lambda: 0.0)
    for number in range(1500):
        failures.keep(post("https://a/v1/messages"), b"%d" % number, Failure("X", "m", None))
    assert len(failures._kept) == 1024
