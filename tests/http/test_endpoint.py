import re
from ipaddress import ip_address

import pytest
from table_test import table_test

from stormbreak.errors import ConfigurationError
from stormbreak.http.endpoint import Origin, is_loopback, origin_of, same_origin

KEY = "sk-canary-0123456789"
LONG_KEY = "sk-proj-Abcdef0123456789Ghij"


@table_test(
    ("given", "kept"),
    [
        ("https://api.example.com/v1", "https://api.example.com/v1"),
        ("https://api.example.com/v1/", "https://api.example.com/v1"),
        ("  https://api.example.com/v1\n", "https://api.example.com/v1"),
        ("HTTPS://API.Example.com/v1", "https://api.example.com/v1"),
        ("https://api.example.com:8443/v1", "https://api.example.com:8443/v1"),
        (f"https://api.example.com/v1?key={KEY}", "https://api.example.com/v1"),
        (f"https://api.example.com/v1?a=b#{KEY}", "https://api.example.com/v1"),
        ("https://api.example.com", "https://api.example.com"),
        ("http://[::1]:8900/v1", "http://[::1]:8900/v1"),
        ("https://[2001:DB8::1]/v1", "https://[2001:db8::1]/v1"),
    ],
)
def test_a_base_url_is_normalised(given, kept):
    assert origin_of(given, KEY).base_url == kept


@table_test(
    "url",
    [
        "",
        "api.example.com/v1",
        "ftp://api.example.com/v1",
        "file:///etc/passwd",
        "https://",
        "https:///v1",
        "https://api.example.com:port/v1",
        "https://api.example.com:99999/v1",
        "https://[::1/v1",
        "https://[nonsense]/v1",
        "https://two words.com/v1",
        "https://api.example.com\\evil.com/v1",
        "https://a..b/v1",
        f"https://user:{KEY}@api.example.com/v1",
        f"https://{KEY}@api.example.com/v1",
        f"https://:{KEY}@api.example.com/v1",
        "https://@api.example.com/v1",
        "https://api.example.com\\@evil.com/v1",
        f"{KEY}",
        f"https://{'x' * 64}/v1",
        f"https://{'x.' * 127}com/v1",
        f"https://{'é' * 60}.example/v1",
        f"http://{LONG_KEY}/v1",
        f"https://{LONG_KEY}:8000",
        f"https://{LONG_KEY.upper()}/v1",
        "https://AIzaSyD0123456789abcdefghijklmnop/v1",
    ],
)
@table_test("key", [None, KEY])
def test_an_invalid_base_url_is_rejected_and_not_echoed(url, key):
    with pytest.raises(ConfigurationError, match="base_url") as caught:
        origin_of(url, key)
    assert KEY not in str(caught.value)
    for part in ("proj", "aiza", "0123456789"):
        assert part not in str(caught.value).lower()
    assert KEY not in repr(caught.value.__context__)


@table_test("url", ["llm.example.org/v1", "127.0.0.1:8900/v1", "localhost:8900"])
def test_a_base_url_without_a_scheme_is_an_error_that_says_so(url):
    with pytest.raises(ConfigurationError, match=r"got one without http:// or https://$"):
        origin_of(url, None)


@table_test(
    "host", ["api.example.com", "10.0.0.1", "localhost.evil.com", "127.0.0.1.nip.io", "[2001:db8::1]",
             "0.0.0.0", "127.1"]
)  # fmt: skip
def test_a_key_over_plain_http_to_another_machine_is_rejected(host):
    with pytest.raises(ConfigurationError, match="in the clear") as caught:
        origin_of(f"http://{host}/v1", KEY)
    assert KEY not in str(caught.value)
    assert origin_of(f"http://{host}/v1", None).api_key is None
    assert origin_of(f"http://{host}/v1", KEY, allow_http=True).api_key == KEY


@table_test("host", ["localhost", "api.localhost", "127.0.0.1", "127.8.9.1", "[::1]"])
def test_a_key_over_plain_http_to_loopback_is_accepted(host):
    assert origin_of(f"http://{host}:8900/v1", KEY).api_key == KEY


@table_test(
    "host", ["hf-inference-server-01", "sk-prod-server", f"{'x' * 63}.example", "my_host", "7f9c8d6b5x2x4z00ab"]
)  # fmt: skip
def test_an_unusual_host_name_is_accepted(host):
    assert origin_of(f"https://{host}/v1", KEY).host == host


def test_a_host_that_looks_like_a_key_is_not_echoed():
    with pytest.raises(ConfigurationError, match="plain http to what looks like a key"):
        origin_of(
            "http://sk-0123456789abcdef/v1".replace("0123456789abcdef", "Abcdefghijklmn"), KEY
        )


def test_loopback_is_recognised_by_address_and_not_by_prefix():
    assert is_loopback("127.0.0.1")
    assert is_loopback(str(ip_address("::1")))
    assert not is_loopback("127.0.0.1.evil.com")
    assert not is_loopback("")


@table_test(
    "key", [f"{KEY}\n", f"{KEY}\r\nX-Evil: 1", f" {KEY}", f"{KEY} {KEY}", f"{KEY}\x00", f"{KEY}\x7f",
            f"{KEY}é", f"{KEY}\u200b", f"\ufeff{KEY}"]
)  # fmt: skip
def test_a_key_with_invalid_characters_is_rejected_and_not_echoed(key):
    with pytest.raises(ConfigurationError, match="API key") as caught:
        origin_of("https://api.example.com/v1", key)
    assert KEY not in str(caught.value)


@table_test("key", ["", "  ", "\n"])
def test_an_empty_key_is_rejected(key):
    with pytest.raises(ConfigurationError, match="the API key is empty"):
        origin_of("https://api.example.com/v1", key)


def test_no_repr_shows_a_key():
    origin = origin_of("https://api.example.com/v1", KEY)
    assert KEY not in f"{origin} {origin!r} {[origin]} {origin.key_digest}"


def test_a_key_digest_differs_between_keys_and_is_salted(monkeypatch):
    one, other = (Origin("https://a/v1", key).key_digest for key in (KEY, KEY + "x"))
    assert re.fullmatch("[0-9a-f]{8}", one)
    assert one != other
    assert one == Origin("https://b/v1", KEY).key_digest
    monkeypatch.setattr("stormbreak.http.endpoint._SALT", b"another process")
    assert one != Origin("https://a/v1", KEY).key_digest
    assert Origin("https://a/v1").key_digest == ""


@table_test(
    ("endpoint", "path"),
    [
        ("chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("models/gemini-2.0:generate", "/v1/models/gemini-2.0:generate"),
        ("models/x@001", "/v1/models/x@001"),
        ("embeddings?api-version=1", "/v1/embeddings?api-version=1"),
        (f"embeddings?key={KEY}", "/v1/embeddings"),
        (f"embeddings?a=b&KEY={KEY}&c=d", "/v1/embeddings?a=b&c=d"),
    ],
)
def test_an_endpoint_is_a_path_below_the_base_url(endpoint, path):
    assert origin_of("https://h/v1", KEY).url_of(endpoint) == f"https://h{path}"


@table_test(
    "endpoint",
    ["", "/", "//evil.com", "//evil.com/x", "https://evil.com", "https://evil.com/v1/chat", "..",
     "../x", "a/../../x", "a/..", "./a", "%2e%2e/x", "a%2fb", "\\\\evil.com", "a\\..\\b", "a b", "a\nb",
     "a\r\nHost: evil.com", "a#b", "é", "?x", "a?b c", "a//b"],
)  # fmt: skip
@table_test("base_url", ["https://h/v1", "https://h"])
def test_an_endpoint_outside_the_base_url_is_rejected(base_url, endpoint):
    with pytest.raises(ConfigurationError, match="endpoint must be a path"):
        origin_of(base_url, KEY).url_of(endpoint)


def test_an_at_sign_stays_in_the_path():
    url = origin_of("https://h", KEY).url_of("@evil.com/x")
    assert url == "https://h/@evil.com/x"


@table_test(
    ("one", "other", "same"),
    [
        ("https://h/v1", "https://H:443/other", True),
        ("http://h:80", "http://h", True),
        ("https://h", "http://h", False),
        ("https://h", "https://h:8443", False),
        ("https://h", "https://h.evil.com", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(one, other, same):
    assert same_origin(one, other) is same
