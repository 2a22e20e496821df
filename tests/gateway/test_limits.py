"""Limits of client keys: calls wait for rates and places, and no key exceeds its spend limit."""

import asyncio
import json
import time
from contextlib import asynccontextmanager
from unittest.mock import Mock

import pytest
from gateways import ANSWER, CHAT, KEY, OTHER, prices, running, settings, until, upstream
from sockets import free_port
from table_test import table_test

from stormbreak.config.gateway_settings import KeySettings
from stormbreak.core.admission import TargetQueue
from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError
from stormbreak.gateway.errors import RefusedError
from stormbreak.gateway.keys import GUESSES, LimitHolder
from stormbreak.gateway.limits import ClientQueues
from stormbreak.gateway.process import Gateway
from stormbreak.http.h1.server_connection import ServerResponse

STREAM = {**CHAT, "stream": True}
PATIENT = "patience = 0.3\n"


@asynccontextmanager
async def limited(path, key, **options):
    text = {"key": key, "top": PATIENT, **options}
    async with (
        upstream() as provider,
        running(path, settings(provider.url, **text), prices=prices) as gateway,
    ):
        yield gateway, provider


async def test_calls_over_a_rate_wait_and_are_rejected_after_their_patience(path):
    async with limited(path, "rpm = 600\n") as (gateway, provider):
        began = time.monotonic()
        replies = await asyncio.gather(*(gateway.ask() for _ in range(30)))
        took = time.monotonic() - began
        others = await asyncio.gather(*(gateway.ask(key=OTHER) for _ in range(30)))
    good = [reply for reply in replies if reply.status == 200]
    assert 10 <= len(good) <= min(29, 11 + 10 * took)  # a burst, then the patience
    assert took < 5
    for reply in replies:
        if reply.status != 200:
            assert (reply.status, reply.json["error"]["code"]) == (429, "key_limit")
            assert int(reply.headers["retry-after"]) >= 1
            assert "x-should-retry" not in reply.headers
    assert [reply.status for reply in others] == [200] * 30
    assert len(provider.seen) == len(good) + 30


async def test_calls_beyond_max_in_flight_wait_for_a_place(path):
    in_flight, peak, go = 0, 0, asyncio.Event()

    async def reply(request, connection):
        nonlocal in_flight, peak
        in_flight += 1
        peak = max(peak, in_flight)
        await asyncio.sleep(0.02)
        in_flight -= 1
        return ServerResponse(200, json.dumps(ANSWER).encode())

    async with limited(path, "max_in_flight = 2\n", top="patience = 5\n") as (gateway, provider):
        provider.reply = reply
        replies = await asyncio.gather(*(gateway.ask() for _ in range(8)))
        assert [each.status for each in replies] == [200] * 8
        assert peak == 2

        async def slow(request, connection):
            connection.begin(200, "text/event-stream", [])
            connection.send(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
            await go.wait()
            connection.break_off()

        provider.reply = slow
        streams = [asyncio.create_task(gateway.ask(STREAM)) for _ in range(2)]
        await until(lambda: len(provider.seen) == 10)
        third = asyncio.create_task(gateway.ask())
        await asyncio.sleep(0.1)
        assert len(provider.seen) == 10  # a stream holds its place until it ends or breaks
        go.set()
        provider.reply = reply
        assert (await third).status == 200
        await asyncio.gather(*streams)


@table_test(
    ("before", "after", "begun", "more"),
    [
        ("max_in_flight = 4\n", "max_in_flight = 2\n", 4, 0),
        ("max_in_flight = 2\n", "max_in_flight = 3\n", 2, 1),
        ("max_in_flight = 3\n", "max_in_flight = 3\nrpm = 6000\n", 3, 0),
        ("rpm = 6000\n", "max_in_flight = 3\n", 5, 0),
    ],
)
async def test_calls_in_flight_count_towards_a_reloaded_limit(path, before, after, begun, more):
    """Found: a changed `max_in_flight` began to count at 0."""
    in_flight, peak, go = 0, 0, asyncio.Event()

    async def reply(request, connection):
        nonlocal in_flight, peak
        in_flight += 1
        await (go.wait() if len(provider.seen) <= begun else asyncio.sleep(0.02))
        peak = max(peak, in_flight)
        in_flight -= 1
        return ServerResponse(200, json.dumps(ANSWER).encode())

    async with limited(path, before, top="patience = 5\n") as (gateway, provider):
        provider.reply = reply
        asking = [asyncio.create_task(gateway.ask()) for _ in range(begun)]
        await until(lambda: len(provider.seen) == begun)
        queued = [asyncio.create_task(gateway.ask()) for _ in range(3 if "max" in before else 0)]
        await asyncio.sleep(0.05)
        for text in (after, f"{after}tpm = 9000000\n", after):
            path.write_text(settings(provider.url, key=text, top="patience = 5\n"))
            assert await gateway.gateway.reload()
        asking += [*queued, *(asyncio.create_task(gateway.ask()) for _ in range(5))]
        await asyncio.sleep(0.05)
        if more:  # the rest run one after another
            await until(lambda: len(provider.seen) == len(asking))
        else:
            assert len(provider.seen) == begun
        go.set()
        replies = await asyncio.gather(*asking)
    assert [each.status for each in replies] == [200] * len(asking)
    assert peak == begun + more


async def test_a_call_queued_before_a_spend_limit_was_set_is_not_bound_by_it(path):
    """Found: the call had no bound, and was rejected because of that."""
    go = asyncio.Event()

    async def reply(request, connection):
        await go.wait()
        return ServerResponse(200, json.dumps(ANSWER).encode())

    async with limited(path, "max_in_flight = 1\n", top="patience = 9\n") as (gateway, provider):
        provider.reply = reply
        asking = [asyncio.create_task(gateway.ask()) for _ in range(2)]
        await until(lambda: provider.seen)
        await asyncio.sleep(0.05)
        spend = "max_in_flight = 1\n[keys.app.spend]\nmax_usd = 5\n"
        path.write_text(settings(provider.url, key=spend, top="patience = 9\n"))
        assert await gateway.gateway.reload()
        go.set()
        assert [(await each).status for each in asking] == [200, 200]
        assert (await gateway.ask()).json["error"]["code"] == "stormbreak_cost"


async def test_an_unchanged_rate_keeps_its_usage_over_a_reload(path):
    """Found: a changed `max_in_flight` reset the requests used in this minute."""
    async with limited(path, "rpm = 1\nmax_in_flight = 4\n") as (gateway, provider):
        assert (await gateway.ask()).status == 200
        path.write_text(settings(provider.url, key="rpm = 1\nmax_in_flight = 5\n", top=PATIENT))
        assert await gateway.gateway.reload()
        assert (await gateway.ask()).status == 429


async def test_an_internal_error_frees_no_place_of_other_calls(path, monkeypatch):
    """Found: the recovery of the engine knew only the places of calls that had waited."""
    go = asyncio.Event()

    async def reply(request, connection):
        await go.wait()
        return ServerResponse(200, json.dumps(ANSWER).encode())

    async with limited(path, "max_in_flight = 1\n", top="patience = 5\n") as (gateway, provider):
        provider.reply = reply
        asking = [asyncio.create_task(gateway.ask())]
        await until(lambda: provider.seen)
        asking.append(asyncio.create_task(gateway.ask()))
        await asyncio.sleep(0.05)
        with monkeypatch.context() as patched:
            patched.setattr(TargetQueue, "enter", Mock(side_effect=MemoryError))
            broken = await gateway.ask()
        assert broken.status >= 500
        await asyncio.sleep(0.05)
        assert len(provider.seen) == 1
        go.set()
        assert [each.status for each in await asyncio.gather(*asking)] == [200, 200]
        assert (await gateway.ask()).status == 200
        assert not gateway.gateway._limits.queues.engine.lent


async def test_places_taken_before_a_fork_do_not_count_in_the_child():
    holder = LimitHolder("key", "app", KeySettings(sha256="a" * 64, max_in_flight=1))
    queues = ClientQueues()
    queues.apply([holder], Policy(patience=0.05))
    before = await queues.enter(holder, tokens=1, deadline_at=None)
    queues.engine.start_over()  # as the child does
    mine = await queues.enter(holder, tokens=1, deadline_at=None)
    queues.leave(before, None)
    queues.driver.between_steps(lambda engine, now: engine.recover([], now))
    with pytest.raises(RefusedError):
        await queues.enter(holder, tokens=1, deadline_at=None)
    queues.leave(mine, None)
    queues.leave(await queues.enter(holder, tokens=1, deadline_at=None), None)


async def test_a_client_that_disconnects_frees_its_place(path):
    go = asyncio.Event()

    async def hang(request, connection):
        await go.wait()

    async with limited(path, "max_in_flight = 1\n", top="patience = 5\n") as (gateway, provider):
        provider.reply = hang
        asking = asyncio.create_task(gateway.ask())
        await until(lambda: provider.seen)
        asking.cancel()
        provider.reply = ServerResponse(200, json.dumps(ANSWER).encode())
        assert (await gateway.ask()).status == 200


async def test_the_token_rate_is_settled_by_real_usage(path):
    used = {**ANSWER, "usage": {"prompt_tokens": 590, "completion_tokens": 10, "total_tokens": 600}}
    async with limited(path, "tpm = 3600\n") as (gateway, provider):
        provider.reply = ServerResponse(200, json.dumps(used).encode())
        first = await gateway.ask({**CHAT, "max_tokens": 20})
        later = await gateway.ask({**CHAT, "max_tokens": 20})
    assert first.status == 200
    assert later.status == 429  # 600 tokens are ten seconds of its rate
    assert 5 <= int(later.headers["retry-after"]) <= 11


async def test_an_upstream_429_starts_no_cooldown_for_the_key(path):
    async with limited(path, "rpm = 6000\n", top=f"{PATIENT}[retry]\nmax_attempts = 1\n") as (
        gateway,
        provider,
    ):
        provider.reply = ServerResponse(429, b"{}", (("retry-after", "30"),))
        assert (await gateway.ask()).status == 429
        queue = gateway.gateway._limits.queues.engine
        (state,) = queue.snapshot(0.0)["targets"].values()
        assert (state["cooldown"], state["in_flight"], state["queued"]) == (0.0, 0, 0)


@table_test(
    ("reply", "counts"),
    [(ServerResponse(400, b"{}"), True), (ServerResponse(429, b"{}"), True), (None, False)],
)
async def test_a_failed_call_counts_towards_the_rate_if_it_was_sent(path, reply, counts):
    """Found: a key could exceed its rate with calls that the provider rejected."""
    once = f"{PATIENT}[retry]\nmax_attempts = 1\n"
    async with upstream() as provider:
        provider.reply = reply
        url = provider.url if reply else f"http://127.0.0.1:{free_port()}/v1"
        async with running(path, settings(url, key="rpm = 1\n", top=once)) as gateway:
            first, second = await gateway.ask(), await gateway.ask()
    assert first.status in (400, 429, 502)
    assert ((second.json["error"].get("code") or "") == "key_limit") is counts


SPEND = "[keys.app.spend]\nmax_usd = {}\n{}"


@table_test("payload", [CHAT, STREAM])
async def test_two_hundred_concurrent_calls_never_exceed_a_spend_limit(path, payload):
    """Each answer costs ten cents; the reservation is higher, since the prompt might have more tokens."""
    used = {"prompt_tokens": 10, "completion_tokens": 90, "total_tokens": 100}
    event = json.dumps(
        {
            "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}],
            "usage": used,
        }
    )
    plain = json.dumps({**ANSWER, "usage": used}).encode()

    async def reply(request, connection):
        await asyncio.sleep(0.01)
        if b'"stream":true' not in request.body.replace(b" ", b""):
            return ServerResponse(200, plain)
        connection.begin(200, "text/event-stream", [])
        connection.send(f"data: {event}\n\ndata: [DONE]\n\n".encode())
        connection.end()
        return None

    async with limited(path, SPEND.format(2, "")) as (gateway, provider):
        provider.reply = reply
        asked = {**payload, "max_tokens": 90}
        replies = await asyncio.gather(*(gateway.ask(asked) for _ in range(200)))
        served = sum(reply.status == 200 for reply in replies)
        more = [(await gateway.ask(asked)).status for _ in range(30)]
        spent = gateway.metric("key_spent_usd")
        assert (await gateway.ask(asked, key=OTHER)).status == 200
    paid = served + more.count(200)
    assert len(provider.seen) - 1 == paid > 15
    assert spent == pytest.approx(0.1 * paid)
    assert spent <= 2
    refused = next(reply for reply in replies if reply.status != 200)
    assert refused.status == 429
    assert refused.json["error"]["code"] == "stormbreak_spend"


async def test_a_cancelled_call_counts_its_maximum_cost_as_spent(path):
    async def hang(request, connection):
        await asyncio.sleep(30)

    async with limited(path, SPEND.format(2, "")) as (gateway, provider):
        provider.reply = hang
        asking = asyncio.create_task(gateway.ask({**CHAT, "max_tokens": 90}))
        await until(lambda: provider.seen)
        asking.cancel()
        await until(lambda: gateway.metric("in_flight") == 0)
        assert gateway.metric("key_spent_usd") > 0.09


async def test_a_retry_beyond_the_spend_limit_is_not_sent(path):
    async with limited(path, SPEND.format("0.4", "")) as (gateway, provider):
        provider.reply = lambda request, connection: (
            connection.abort()
        )  # the provider may have processed it
        reply = await gateway.ask({**CHAT, "max_tokens": 90})
        assert reply.status in (429, 502)
        assert len(provider.seen) == 1
        assert 0.1 < gateway.metric("key_spent_usd") <= 0.4


async def test_a_request_without_max_tokens_gets_the_default_or_is_rejected(path):
    async with limited(path, SPEND.format(2, "")) as (gateway, provider):
        reply = await gateway.ask()
        assert (reply.status, reply.json["error"]["code"]) == (400, "stormbreak_cost")
        assert reply.headers["x-stormbreak-attempts"] == "0"
        assert provider.seen == []
    async with limited(path, SPEND.format(2, "max_output_tokens = 50")) as (gateway, provider):
        assert (await gateway.ask()).status == 200
        assert provider.bodies[0]["max_tokens"] == 50


async def test_a_price_function_that_raises_means_an_unknown_price(path):
    """Found: a price function that raised caused status 500."""

    def broken(provider, model):
        raise ZeroDivisionError

    limit = "[keys.app.spend]\nmax_usd = 1\nmax_output_tokens = 100\n"
    async with (
        upstream() as provider,
        running(path, settings(provider.url, key=limit), prices=broken) as gateway,
    ):
        for payload in (CHAT, STREAM):
            refused = await gateway.ask(payload)
            assert (refused.status, refused.json["error"]["code"]) == (400, "stormbreak_cost")
            assert refused.json["error"]["type"] == "invalid_request_error"
            assert "no price is known for storm-1" in refused.json["error"]["message"]
        assert (await gateway.ask(key=OTHER)).status == 200
    assert len(provider.seen) == 1


async def test_a_spend_limit_renews_with_its_period(path):
    async with limited(path, SPEND.format("0.4", "period = 60\n")) as (gateway, provider):
        provider.reply = ServerResponse(
            200,
            json.dumps(
                {**ANSWER, "usage": {"prompt_tokens": 10, "completion_tokens": 140}}
            ).encode(),
        )
        asked = {**CHAT, "max_tokens": 150}
        statuses = [(await gateway.ask(asked)).status for _ in range(2)]
        assert statuses == [200, 429]
        gateway.gateway._limits.budgets.clock = lambda: time.monotonic() + 60
        assert (await gateway.ask(asked)).status == 200


async def test_a_key_sees_its_own_limits_and_spending(path):
    async with limited(path, "rpm = 600\n" + SPEND.format(2, "period = 60\n")) as (gateway, _):
        before = (await gateway.ask(None, "/v1/usage", method="GET")).json
        await gateway.ask({**CHAT, "max_tokens": 90})
        mine = (await gateway.ask(None, "/v1/usage", method="GET")).json
        other = (await gateway.ask(None, "/v1/usage", method="GET", key=OTHER)).json
    assert before["spend"] == {"limit": "2", "spent": "0", "reserved": "0", "ends": None}
    assert (mine["key"], mine["rpm"], mine["tpm"]) == ("app", 600, None)
    assert (mine["spend"]["spent"], mine["spend"]["reserved"]) == ("0.015", "0.000")
    assert 50 < mine["spend"]["ends"] <= 60
    assert other["spend"] is None


# ------------------------------------------------------------------ tenants


def team(limits, *, app=""):
    """Return options for two keys of a tenant."""
    tenant = 'tenant = "team"\n'
    return {"key": tenant + app, "more": f"{tenant}[tenants.team]\n{limits}"}


async def test_all_keys_of_a_tenant_share_its_limits(path):
    in_flight, peak = 0, 0

    async def reply(request, connection):
        nonlocal in_flight, peak
        in_flight += 1
        peak = max(peak, in_flight)
        await asyncio.sleep(0.01)
        in_flight -= 1
        return ServerResponse(200, json.dumps(ANSWER).encode())

    text = settings("{provider}", **team("max_in_flight = 3\n", app="max_in_flight = 2\n"))
    async with upstream() as provider:
        provider.reply = reply
        text = "patience = 5\n" + text.replace("{provider}", provider.url)
        async with running(path, text) as gateway:
            await asyncio.gather(*(gateway.ask() for _ in range(6)))
            assert peak == 2  # the limit of the key itself
            keys = (KEY, OTHER) * 6
            replies = await asyncio.gather(*(gateway.ask(key=key) for key in keys))
            assert [each.status for each in replies] == [200] * 12
            assert peak == 3


async def test_a_call_rejected_by_its_tenant_uses_no_limit_of_its_key(path):
    limits = team("rpm = 1\n", app="rpm = 2\n")
    async with limited(path, limits.pop("key"), **limits) as (gateway, provider):
        assert (await gateway.ask(key=OTHER)).status == 200  # uses the tenant's rate
        refused = await gateway.ask()
        queues = gateway.gateway._limits.queues.engine
        targets = queues.snapshot(0.0)["targets"]
        assert gateway.gateway._live.engine.tenants == {}  # otherwise a call would count twice
    assert (refused.status, refused.json["error"]["code"]) == (429, "key_limit")
    assert refused.json["error"]["message"].startswith("tenant team: ")
    assert len(provider.seen) == 1
    assert [each["in_flight"] for each in targets.values()] == [0, 0]


@table_test("payload", [CHAT, STREAM])
async def test_keys_of_a_tenant_never_exceed_its_spend_limit(path, payload):
    """Each answer costs ten cents; a key alone may spend all but one cent of the limit."""
    used = {"prompt_tokens": 10, "completion_tokens": 90, "total_tokens": 100}
    plain = ServerResponse(200, json.dumps({**ANSWER, "usage": used}).encode())
    event = json.dumps(
        {
            "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}],
            "usage": used,
        }
    )

    def reply(request, connection):
        if b'"stream"' not in request.body:
            return plain
        connection.begin(200, "text/event-stream", [])
        connection.send(f"data: {event}\n\ndata: [DONE]\n\n".encode())
        connection.end()
        return None

    spend = "[tenants.team.spend]\nmax_usd = 2\n"
    limits = team(spend, app="[keys.app.spend]\nmax_usd = 1.99\n")
    async with limited(path, limits.pop("key"), **limits) as (gateway, provider):
        provider.reply = reply
        asked = {**payload, "max_tokens": 90}
        keys = (KEY, OTHER) * 50
        replies = await asyncio.gather(*(gateway.ask(asked, key=key) for key in keys))
        while replies[-1].status == 200 or len(replies) == len(
            keys
        ):  # concurrent calls reserve more than they cost
            replies.append(await gateway.ask(asked, key=OTHER))
        assert gateway.metric('tenant_spent_usd{tenant="team"}') == pytest.approx(
            0.1 * len(provider.seen)
        )
        assert gateway.metric('tenant_limit_usd{tenant="team"}') == 2
        assert 0 < gateway.metric('key_spent_usd{key="app"}') < 2
        usage = (await gateway.ask(None, "/v1/usage", method="GET", key=OTHER)).json
    assert 15 < len(provider.seen) <= 20
    assert sum(each.status == 200 for each in replies) == len(provider.seen)
    assert (usage["key"], usage["spend"]) == ("other", None)
    assert usage["of_tenant"]["tenant"] == "team"
    assert float(usage["of_tenant"]["spend"]["spent"]) == pytest.approx(0.1 * len(provider.seen))


async def test_the_spending_of_a_tenant_survives_a_restart(path):
    limits = team("[tenants.team.spend]\nmax_usd = 0.4\n")
    limits["gateway"] = 'ledger = "spent.db"'
    statuses = []
    for _ in range(2):
        async with limited(path, **limits) as (gateway, provider):
            used = {"prompt_tokens": 10, "completion_tokens": 140}
            body = json.dumps({**ANSWER, "usage": used}).encode()
            provider.reply = ServerResponse(200, body)
            statuses.append((await gateway.ask({**CHAT, "max_tokens": 150})).status)
    assert statuses == [200, 429]


# ------------------------------------------------------------------ price files

DEAL = """
[[prices]]
provider = "{provider}"
model = "storm-1"
input = 0
output = 1000
"""


async def test_a_price_file_in_the_settings_applies_to_limits_and_ledger(path):
    spend = "[keys.app.spend]\nmax_usd = 0.35\n"
    async with upstream() as provider:
        seller = provider.url.split("/")[
            2
        ]  # a target without a known provider has its host as name
        path.with_name("deal.toml").write_text(DEAL.format(provider=seller))
        used = {"prompt_tokens": 10, "completion_tokens": 100}
        provider.reply = ServerResponse(200, json.dumps({**ANSWER, "usage": used}).encode())
        text = settings(
            provider.url, key=spend, top='prices = ["deal.toml"]\n', gateway='ledger = "spent.db"'
        )
        async with running(path, text) as gateway:
            asked = {**CHAT, "max_tokens": 100}
            statuses = [(await gateway.ask(asked)).status for _ in range(4)]
            assert statuses == [200, 200, 200, 429]
            assert gateway.metric("key_spent_usd") == pytest.approx(0.3)
            assert gateway.metric("spent_usd_total") == pytest.approx(0.3)


@table_test(
    ("text", "message"),
    [
        (None, "prices: no price file is named"),
        ("[[prices]]\nprovider = 'a'\nmodel = 'b'\ninpt = 1\n", "prices: .*unknown key prices"),
    ],
)
async def test_an_invalid_price_file_is_an_error_at_the_start(path, text, message):
    if text is not None:
        path.with_name("deal.toml").write_text(text)
    path.write_text(settings("http://127.0.0.1:1/v1", top='prices = ["deal.toml"]\n'))
    with pytest.raises(ConfigurationError, match=message) as caught:
        Gateway(path)
    assert str(caught.value).startswith(str(path))


async def test_a_reload_with_other_price_files_asks_for_a_restart(path, caplog):
    path.with_name("deal.toml").write_text(DEAL)
    async with upstream() as provider, running(path, settings(provider.url)) as gateway:
        path.write_text(settings(provider.url, top='prices = ["deal.toml"]\n'))
        assert await gateway.gateway.reload()
    assert "prices has changed: restart the gateway to use it" in caplog.text


# ------------------------------------------------------------------ wrong keys


async def test_guesses_of_keys_are_throttled_by_address_and_valid_keys_are_not(path):
    async with limited(path, "") as (gateway, provider):
        for _ in range(3):
            replies = await asyncio.gather(*(gateway.ask(key=f"sb-{n}") for n in range(GUESSES)))
        assert {reply.status for reply in replies} == {429}
        assert int(replies[0].headers["retry-after"]) >= 1
        assert [(await gateway.ask(key=key)).status for key in (KEY, OTHER)] == [200, 200]
        assert gateway.metric('requests_total{key="-"') == 3 * GUESSES
    assert len(provider.seen) == 2


@table_test(
    ("old", "new", "message"),
    [
        ("[keys.app]", "[targets.spare]\nprovider = 'local'\n[keys.app]", None),
        ("labels", "labels = { 'A B' = 'x' }\n", "the name of a label must be"),
        ("tenant", 'tenant = "\\u0007"\n', "keys.app.tenant must be printable"),
    ],
)
async def test_settings_that_a_gateway_cannot_serve_are_an_error(path, old, new, message):
    text = settings("http://127.0.0.1:1/v1", key=new if message else "")
    path.write_text(text)
    if message is None:
        Gateway(path)
    else:
        with pytest.raises(ConfigurationError, match=message) as caught:
            Gateway(path)
        assert str(caught.value).startswith(str(path))


async def test_a_gateway_without_keys_does_not_start(path):
    path.write_text("[targets.main]\nprovider = 'local'\n")
    with pytest.raises(ConfigurationError, match="it has no client key: add the lines"):
        Gateway(path)
