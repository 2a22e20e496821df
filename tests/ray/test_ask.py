"""Rows of a dataset: each row gets its answer, no row is sent twice, and none fails the job."""

import asyncio
import json

import pytest
from batches import scenario
from sockets import answer, failing, served
from table_test import table_test

from stormbreak.core import straggler
from stormbreak.errors import AuthenticationError, BillingError, ConfigurationError
from stormbreak.ray import ADDED, Ask
from stormbreak.testing import serve

ROWS = {"id": [1, 2, 3], "title": ["Storms", "Calms", "Tides"], "note": ["never", "sent", "on"]}


def asking(server, **options):
    options = {"prompt": "Sum up {title}", "id": "id", "model": "m"} | options
    return Ask(base_url=server.base_url, **options)


def bodies(server):
    return [json.loads(request.body) for request in server.requests]


async def test_answers_join_the_columns_and_only_the_prompt_is_sent():
    async with served(answer()) as server:
        out = await asking(server)(ROWS)
    assert {name: out[name] for name in ROWS} == ROWS
    assert set(out) == {*ROWS, *ADDED}
    assert out["answer"] == ["fine"] * 3
    assert out["verdict"] == ["ok"] * 3
    assert (out["error"], out["attempts"]) == ([None] * 3, [1] * 3)
    assert sorted(body["messages"][0]["content"] for body in bodies(server)) == [
        "Sum up Calms", "Sum up Storms", "Sum up Tides",
    ]  # fmt: skip
    assert all("never" not in str(body) and body["model"] == "m" for body in bodies(server))


async def test_a_failed_row_has_its_reason_and_fails_no_other_row():
    async with served(failing(400), answer()) as server:
        out = await asking(server)({"id": [1, 2, None], "title": ["a", "b", "c"]})
    assert sorted(map(str, out["verdict"])) == ["invalid", "invalid", "ok"]
    assert out["error"][2] == "its id is empty"
    assert out["answer"][2] is None


@pytest.mark.parametrize("status", [401, 402])
async def test_an_authentication_or_billing_error_ends_the_job(status):
    async with served(failing(status, {"code": "insufficient_quota"})) as server:
        with pytest.raises((AuthenticationError, BillingError)):
            await asking(server)(ROWS)


async def test_rows_with_equal_requests_share_one_answer_without_ids():
    async with served(answer()) as server:
        out = await asking(server, id=None)({"title": ["a", "b", "a", "a"]})
    assert out["answer"] == ["fine"] * 4
    assert len(server.requests) == 2


async def test_a_replacement_actor_sends_no_answered_row_again(tmp_path):
    async with served(answer()) as server:
        first = asking(server, journal=tmp_path, actors=2)
        second = asking(server, journal=tmp_path, actors=2)
        await first(ROWS)
        out = await second(ROWS)
        await second({**ROWS, "title": ["Storms", "Calms", "Other"]})
        third = await asking(server, journal=tmp_path)(ROWS)
    assert out["answer"] == third["answer"] == ["fine"] * 3
    assert len(server.requests) == 4
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())


async def test_a_row_with_a_truncated_journal_line_is_sent_again(tmp_path):
    async with served(answer()) as server:
        await asking(server, journal=tmp_path)(ROWS)
        (file,) = tmp_path.iterdir()
        file.write_bytes(file.read_bytes()[:-20])
        await asking(server, journal=tmp_path)(ROWS)
    assert len(server.requests) == 4


async def test_batches_of_one_actor_are_in_flight_together():
    async with served([0.1, answer()]) as server:
        ask = asking(server, policy="batch")
        async with asyncio.timeout(10):
            await asyncio.gather(*(ask({"id": [n], "title": [f"t{n}"]}) for n in range(8)))
        assert server.opened > 1


@table_test(
    ("options", "message"),
    [
        ({"actors": 0}, "actors must be at least 1, got 0"),
        ({"prompt": "the same for all"}, "names no column"),
        ({"prompt": None}, "its rows are not requests"),
        ({"policy": "nonsense"}, "nonsense"),
    ],
)
async def test_an_invalid_option_of_ask_raises_configuration_error(options, message):
    with pytest.raises(ConfigurationError, match=message):
        Ask(base_url="http://127.0.0.1:1/v1", **{"model": "m", "prompt": "{title}", **options})


async def test_a_batch_may_be_a_pandas_frame_or_an_arrow_table():
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    async with served(answer()) as server:
        ask = asking(server)
        for batch in (pandas.DataFrame(ROWS), pyarrow.table(ROWS)):
            assert (await ask(batch))["answer"] == ["fine"] * 3
    assert len(server.requests) == 6


async def test_a_row_may_hold_lists_as_numpy_arrays():
    numpy = pytest.importorskip("numpy")
    messages = numpy.array([{"role": "user", "content": "Storms"}], dtype=object)
    column = numpy.empty(1, dtype=object)
    column[0] = {"messages": messages, "n": numpy.int64(1)}
    async with served(answer()) as server:
        out = await asking(server, prompt=None, body="ask", id=None)({"ask": column})
    assert out["answer"] == ["fine"]
    (body,) = bodies(server)
    assert body["messages"] == [{"role": "user", "content": "Storms"}]


async def test_hanging_rows_are_sent_again_and_delay_no_batch(monkeypatch):
    monkeypatch.setattr(straggler, "FLOOR", 0.4)
    rows = {"id": [*range(120)], "title": [f"t{number}" for number in range(120)]}
    with serve(scenario({"kind": "hang", "share": 0.04}, service=0.02), seed=1) as provider:
        async with asyncio.timeout(15.0):  # an attempt times out after 600 s
            out = await asking(provider)(rows)
        stats = provider.stats()
    hung = stats["faults"]["hang"]
    assert hung
    assert set(out["verdict"]) == {"ok"}
    assert sum(out["attempts"]) == stats["arrivals"] == 120 + hung
    assert stats["idempotency"] == {"keys": 120, "repeats": hung}
