"""A status port for an application: for every object with an engine, as a block or until it is closed."""

import asyncio
import json
import threading
import urllib.request
from contextlib import suppress

import pytest
from batches import scenario
from canary import KEY, PROMPT, assert_clean
from table_test import table_test
from watching import http_get, state_at

from stormbreak import AsyncClient, Client, resilient
from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError, StormbreakError
from stormbreak.httpx2 import AsyncTransport
from stormbreak.telemetry import serve

pytestmark = pytest.mark.usefixtures("no_words_about_providers")

SAY = [{"role": "user", "content": PROMPT}]


async def test_state_and_metrics_equal_the_counts_of_the_provider(stormbreak_provider):
    provider = stormbreak_provider(scenario({"kind": "503", "share": 0.3}), seed=3)
    async with AsyncClient(base_url=provider.base_url, model="m", api_key=KEY) as client:
        with serve(client) as serving:
            await asyncio.gather(*(client.chat(SAY) for _ in range(40)), return_exceptions=True)
            state = state_at(serving.port)
            metrics = http_get(serving.port, "/metrics")[1]
    sent = provider.stats()["arrivals"]
    (target,) = state["targets"]
    assert state["counts"]["calls"] == 40
    assert state["counts"]["attempts"] == sent == sum(target["verdicts"].values())
    assert state["counts"]["answered"] == target["verdicts"]["ok"]
    assert (target["in_flight"], target["queued"]) == (0, 0)
    assert f'verdict="overloaded"}} {target["verdicts"]["overloaded"]}.0' in metrics
    assert state["batch"] is None
    assert_clean(json.dumps(state) + metrics, "status pages")


def test_serve_without_a_block_runs_until_close(stormbreak_provider):
    provider = stormbreak_provider("calm", speed=100)
    with Client(base_url=provider.base_url, model="m") as client:
        serving = serve(client)
        assert serving.address == f"http://127.0.0.1:{serving.port}"
        client.chat(SAY)
        url = f"{serving.address}/state"
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert json.load(answer)["counts"]["answered"] == 1
        serving.close()
        serving.close()
        assert client.engine.listeners == []
        client.chat(SAY)
    assert not [thread for thread in threading.enumerate() if thread.name == "stormbreak port"]


def test_another_address_serves_only_metrics_and_health_to_any_host(caplog):
    guarded = resilient(on=OSError, target="a")
    for host in ("0.0.0.0", "::"):
        with serve(guarded, host=host) as serving:
            where = f"[{host}]" if ":" in host else host
            assert serving.address == f"http://{where}:{serving.port}"
            assert "every machine that reaches this address can read it" in caplog.messages[-1]
            url = f"http://127.0.0.1:{serving.port}/metrics"
            request = urllib.request.Request(url, headers={"Host": "pod-7.internal"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert answer.status == 200
            assert http_get(serving.port, "/health") == (200, "ok\n")
            assert http_get(serving.port, "/state")[0] == 404
    with pytest.raises(ConfigurationError, match=r"cannot listen on 203\.0\.113\.7 port 0: "):
        serve(guarded, host="203.0.113.7")


def test_serve_on_a_unix_socket_removes_it_at_the_end(tmp_path):
    guarded = resilient(on=ConnectionError, target="prices")
    with serve(guarded, path=tmp_path / "app.sock") as serving:
        assert serving.address == str(tmp_path / "app.sock")
        guarded.call(lambda: 1)
        assert state_at(tmp_path / "app.sock")["counts"]["answered"] == 1
    assert not (tmp_path / "app.sock").exists()


def test_one_port_serves_several_engines():
    first, second = resilient(on=OSError, target="a"), resilient(on=OSError, target="b")
    with serve(first, second) as serving:
        first.call(lambda: 1)
        second.call(lambda: 1)
        state = state_at(serving.port)
    assert {target["target"] for target in state["targets"]} == {"a", "b"}
    assert state["counts"]["calls"] == 2


@table_test(
    "make", [lambda: Engine(Policy()), AsyncTransport, lambda: resilient(on=OSError, target="a")]
)
def test_serve_accepts_every_object_with_an_engine(make):
    with serve(make()) as serving:
        assert http_get(serving.port, "/metrics")[0] == 200


@table_test("what", [(), (3,), (Engine(Policy()), "text")])
def test_an_object_without_an_engine_is_rejected_and_starts_no_thread(what):
    before = threading.active_count()
    with pytest.raises(ConfigurationError):
        serve(*what)
    assert threading.active_count() == before


def test_a_port_and_a_path_together_are_rejected(tmp_path):
    with pytest.raises(ConfigurationError, match="a port or a path, not both"):
        serve(Engine(Policy()), port=1, path=tmp_path / "s")


def test_a_port_in_use_is_rejected():
    engine = Engine(Policy())
    with serve(engine) as serving:
        with pytest.raises(ConfigurationError, match="Address already in use"):
            serve(engine, port=serving.port)
        assert len(engine.listeners) == 2


async def test_model_names_are_escaped_and_cut_in_the_state(stormbreak_provider):
    provider = stormbreak_provider("calm", speed=100)
    model = "\x1b[31m[red]\r\n" + "x" * 10_000
    async with AsyncClient(base_url=provider.base_url) as client:
        with serve(client) as serving:
            with suppress(StormbreakError):
                await client.chat(SAY, model=model)
            state = state_at(serving.port)
    (target,) = state["targets"]
    assert target["target"].isprintable()
    assert len(target["target"]) <= 120
