"""Processes share a spend limit and never exceed it, whatever happens to members and store."""

import time
from decimal import Decimal

from batches import wait_until
from fleet_processes import Worker
from fleet_stores import Server

from stormbreak.provider.in_thread import serve

LIMIT = Decimal("0.02")
BOUND = Decimal("0.001")  # what a call may cost, at most
SPENT, LOST = "the rest of the limit", "the store of the fleet does not answer"


def billed(provider):
    """US dollars, by the prices of `metering.price_of`."""
    rows = provider.billed().values()
    return sum(
        Decimal(row.input_tokens) / 1_000_000 + Decimal(row.output_tokens) / 100_000 for row in rows
    )


def start(server, provider, count=3, *, limit=LIMIT, quiet=0.0, **options):
    """Start processes whose calls wait without limit: only the spend limit or the loss of the store ends them."""
    workers = [
        Worker(
            fleet=server.url,
            base_url=provider.base_url,
            max_usd=float(limit),
            quiet=quiet,
            patience=None,
            **options,
        )
        for _ in range(count)
    ]
    return [worker.ready() for worker in workers]


def one_by_one(name, until):
    """Options for calls that continue until one is rejected with this reason."""
    return {"calls": 2_000, "every": 0.02, "until": until, "policy": {"name": name}}


def test_three_processes_use_up_a_spend_limit_without_exceeding_it(own_server):
    with serve() as provider:
        ended = [worker.ended() for worker in start(own_server, provider, calls=67)]
        assert LIMIT - BOUND <= billed(provider) <= LIMIT
    rejected = [error for each in ended for error in each["errors"]]
    assert 50 <= len(rejected) < 201
    assert all(SPENT in error for error in rejected), rejected[:3]


def test_a_lost_member_and_a_killed_durable_store_never_exceed_the_limit(tmp_path):
    server = Server("valkey", tmp_path, durable=True).start()
    try:
        with serve() as provider:
            workers = start(server, provider, **one_by_one("durable", SPENT))
            wait_until(lambda: billed(provider) > LIMIT / 8)
            workers[0].kill()
            server.kill()
            time.sleep(0.3)
            server.start()
            ended = [worker.ended() for worker in workers[1:]]
            assert LIMIT / 2 <= billed(provider) <= LIMIT  # a lost member keeps its last grant
    finally:
        server.kill()
    for each in ended:
        assert all(SPENT in error or LOST in error for error in each["errors"])
        assert any(SPENT in error for error in each["errors"])


def test_without_the_store_calls_beyond_the_grant_are_rejected(tmp_path):
    server = Server("valkey", tmp_path).start()
    try:
        with serve() as provider:
            (worker,) = start(server, provider, 1, **one_by_one("frozen", LOST))
            wait_until(lambda: billed(provider) > 0)
            server.freeze()
            ended = worker.ended()
            assert Decimal(0) < billed(provider) <= LIMIT
    finally:
        server.thaw()
        server.kill()
    assert any(LOST in error for error in ended["errors"])
    assert max(ended["waits"]) < 5
