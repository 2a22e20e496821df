"""Scope headers: their values, and that they are never sent."""

import time
from importlib import import_module

import pytest
from loop_thread import LoopThread
from sdk_clients import QUICK
from sockets import answer, served
from table_test import table_test

from stormbreak import ConfigurationError, Priority, scope
from stormbreak.drivers.scope import current
from stormbreak.http.transports.sdk_request import scope_from_headers

OURS = {
    "X-Stormbreak-Priority": "batch",
    "x-stormbreak-deadline": "30",
    "x-stormbreak-tenant": "acme",
    "x-stormbreak-label-feature": "search",
    "x-stormbreak-retries": "1",
}
ASK = ("chat/completions", {"json": {"model": "m", "messages": []}})
LOOK = ("models", {})
UPLOAD = ("files", {"files": {"file": ("a.jsonl", b"{}")}})


def scope_of(**headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return scope_from_headers({f"x-stormbreak-{name}": value for name, value in named.items()})


def test_the_current_scope_applies_without_headers():
    assert scope_from_headers({"accept": "application/json"}) is current()
    with scope(tenant="acme") as here:
        assert scope_from_headers({"accept": "application/json"}) is here


def test_every_scope_header_is_read(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    here = scope_from_headers({name.lower(): value for name, value in OURS.items()})
    assert here[1:] == (Priority.BATCH, "acme", (("feature", "search"),), 2)
    assert here.deadline_at == 1030.0


def test_headers_override_the_scope_but_extend_no_deadline():
    around = {"priority": Priority.BATCH, "tenant": "acme", "labels": {"a": "1", "b": "1"}}
    with scope(**around, retries=0, deadline=5) as outer:
        inner = scope_of(
            priority="Interactive", tenant="shop", retries="2", label_b="2", deadline="9.5"
        )
        assert inner[1:] == (Priority.INTERACTIVE, "shop", (("a", "1"), ("b", "2")), 3)
        assert inner.deadline_at == outer.deadline_at
        assert scope_of(deadline="1").deadline_at < outer.deadline_at


@table_test(
    ("name", "value", "message"),
    [
        ("priority", "1", "x-stormbreak-priority must be one of interactive, batch, background"),
        (
            "deadline",
            "soon",
            "x-stormbreak-deadline must be seconds, such as 30 or 2.5, got 'soon'",
        ),
        ("deadline", "-1", "x-stormbreak-deadline must be seconds"),
        ("deadline", "nan", "x-stormbreak-deadline must be seconds"),
        ("deadline", "1, 2", "x-stormbreak-deadline must be seconds"),
        ("deadline", "9" * 400, "x-stormbreak-deadline must be seconds"),
        ("deadline", "\u0665", "x-stormbreak-deadline must be seconds"),
        ("retries", "1.5", "x-stormbreak-retries must be a whole number, 0 or more, got '1.5'"),
        ("retries", "-1", "x-stormbreak-retries must be a whole number"),
        ("tenant", "x" * 201, "x-stormbreak-tenant must be printable text"),
        ("label_a!", "x", "the name of a label must be .*, got 'a!'"),
        ("label_a", "x" * 201, "label 'a' must be printable text"),
        ("prioritty", "batch", "no header is called 'x-stormbreak-prioritty'; there are x-storm"),
        ("label", "x", "no header is called 'x-stormbreak-label'"),
    ],
)
def test_an_invalid_scope_header_is_rejected(name, value, message):
    with pytest.raises(ConfigurationError, match=message):
        scope_of(**{name: value})


def test_an_invalid_scope_header_is_not_echoed_if_it_looks_like_a_key():
    with pytest.raises(ConfigurationError) as refused:
        scope_of(priority="sk-canary-0123456789")
    assert "canary" not in str(refused.value)


def test_an_empty_tenant_header_removes_the_tenant():
    with scope(tenant="acme"):
        assert scope_of(tenant="").tenant == ""
        assert scope_of(retries="1").tenant == "acme"


@table_test("what", [ASK, LOOK, UPLOAD])
@table_test("inner", [False, True])
@table_test("name", ["httpx2", "httpx"])
async def test_scope_headers_are_not_sent(name, inner, what):
    lib, ours = import_module(name), import_module(f"stormbreak.{name}")
    path, sent = what
    async with served(answer()) as server:
        transport = ours.AsyncTransport(QUICK, inner=lib.AsyncHTTPTransport() if inner else None)
        async with lib.AsyncClient(transport=transport, base_url=server.base_url) as client:
            method = "POST" if sent else "GET"
            headers = OURS | {"accept": "application/json", "x-own": "kept"}
            got = await client.request(method, path, headers=headers, **sent)
        assert got.status_code == 200
        assert (
            got.request.headers["x-stormbreak-retries"] == "1"
        )  # the caller's request is unchanged
        (request,) = server.requests
    assert_scope_headers_are_not_sent(request)


@table_test("what", [ASK, LOOK, UPLOAD])
@table_test("inner", [False, True])
@table_test("name", ["httpx2", "httpx"])
def test_a_blocking_transport_does_not_send_scope_headers(name, inner, what):
    lib, ours = import_module(name), import_module(f"stormbreak.{name}")
    path, sent = what
    host, serving = LoopThread(), served(answer())
    server = host.run(serving.__aenter__())
    try:
        transport = ours.Transport(QUICK, inner=lib.HTTPTransport() if inner else None)
        with lib.Client(transport=transport, base_url=server.base_url) as client:
            method = "POST" if sent else "GET"
            headers = OURS | {"accept": "application/json", "x-own": "kept"}
            assert client.request(method, path, headers=headers, **sent).status_code == 200
        (request,) = server.requests
    finally:
        host.run(serving.__aexit__(None, None, None))
        host.stop()
    assert_scope_headers_are_not_sent(request)


def assert_scope_headers_are_not_sent(request):
    assert request.headers["x-own"] == "kept"
    assert not [name for name in request.headers if name.startswith("x-stormbreak-")]
    length = int(request.headers.get("content-length", 0))
    assert len(request.body) == length
    assert (length > 0) == request.line.startswith("POST")
