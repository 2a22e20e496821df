"""`stormbreak fleet status`."""

import json

import pytest
import redis
from fleet_stores import Server, free_port

from stormbreak.cli.main import main
from stormbreak.fleet.messages import Message, RateReport, Report, SlotReport, SpendReport
from stormbreak.fleet.valkey import ValkeyStore


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    server = Server("valkey", tmp_path_factory.mktemp("valkey")).start()
    store = ValkeyStore(server.url)
    store._server = 0.0, 0.0
    target = Report(requests=RateReport(600.0, 1.0, 7.0, 1.0), slots=SlotReport(10.0, 2.0, 4.0))
    spend = Report(spend=SpendReport(limit=5e6, spent=2e6, started=1.0, granted=3e6))
    store.beat(
        [
            Message("default/target acme/m", "a1", target),
            Message("default/spend 5 USD ever", "b2", spend),
            Message("other/target acme/m", "c3", target),
        ]
    )
    store.close()
    yield server.url
    server.kill()


def test_status_lists_the_members_and_their_shares(url, capsys):
    assert main(["fleet", "status", url]) == 0
    out = capsys.readouterr().out
    assert "target acme/m: members 1" in out
    assert "spend 5 USD ever: members 1" in out
    assert "7 requests" in out or "2 requests" in out
    assert "3.000000" in out
    assert "2.000000" in out
    assert "c3" not in out
    assert "appendfsync always" in out


def test_status_with_json_covers_one_fleet(url, capsys):
    assert main(["fleet", "status", url, "--name", "other", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    (scope,) = facts["scopes"]
    assert facts["warnings"] == []  # warnings are about money, and this fleet shares none
    assert scope["scope"] == "other/target acme/m"
    assert [each["member"] for each in scope["members"]] == ["c3"]
    assert scope["members"][0]["slots"] == 4


def test_status_of_an_unknown_fleet_is_empty(url, capsys):
    assert main(["fleet", "status", url, "--name", "nobody*"]) == 0
    assert "no process has used the fleet nobody* recently" in capsys.readouterr().out


@pytest.mark.parametrize("fields", [{"": "abc"}, {"a1": "x" * 7}, {"": ""}, None])
def test_foreign_data_in_the_store_is_an_error_of_one_line(url, capsys, fields):
    client, key = redis.Redis.from_url(url), "stormbreak:3:{foreign}/target acme/m"
    with client:
        client.delete(key)
        if fields is None:
            client.set(key, "foreign")
        else:
            client.hset(key, mapping=fields)
    assert main(["fleet", "status", url, "--name", "foreign"]) == 2
    err = capsys.readouterr().err
    assert "its keys stormbreak:3:* hold data of another program" in err
    assert err.count("\n") == 1


def test_an_unreadable_store_is_an_error_of_one_line(capsys):
    for text, message in (
        (f"redis://127.0.0.1:{free_port()}", "the store cannot be read: no connection"),
        ("redis://user:Tr0ub4dor@host", "url must not contain a password"),
        ("http://host", "url must begin with redis://"),
        ("parent:///tmp/socket", "answers its children only"),
    ):
        assert main(["fleet", "status", text]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert len(err.splitlines()) == 1
        assert "Tr0ub4dor" not in err
