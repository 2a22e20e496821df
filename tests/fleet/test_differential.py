"""The model, the script on real servers and the store of a parent process give the same answers to every history.

`--fleet-histories 10000` plays more histories.
"""

import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stormbreak.fleet import parent_store, valkey
from stormbreak.fleet.messages import (
    CooldownReport,
    Message,
    RateReport,
    Report,
    SlotReport,
    SpendReport,
)
from stormbreak.fleet.parent_store import ParentClient, ParentStore
from stormbreak.fleet.store_rules import Scope, beat
from stormbreak.fleet.valkey import ValkeyStore, _read, key_of

START = 1_790_000_000.25

whole = st.integers(0, 40).map(float)
money = st.integers(0, 2_000).map(float)
rates = st.builds(
    RateReport,
    per_minute=st.sampled_from([0.0, 60.0, 600.0, 100_000.0, 7.3]),
    burst=st.sampled_from([0.0, 1.0, 5.0]),
    want=whole,
    least=whole,
    owed=st.integers(-20, 40).map(float),
)
reports = st.builds(
    Report,
    epoch=st.sampled_from([0.0, START, 5.0]),
    leaves=st.sampled_from([0.0, 0.0, 0.0, 1.0]),
    requests=rates,
    tokens=rates,
    slots=st.builds(
        SlotReport,
        limit=st.sampled_from([0.0, 1.0, 7.0, 20.0]),
        in_flight=whole,
        want=whole,
        cap=whole,
    ),
    cooldown=st.builds(
        CooldownReport,
        kind=st.sampled_from([0.0, 1.0, 2.0]),
        age=st.floats(0, 5),
        left=st.floats(0, 9),
    ),
    spend=st.builds(
        SpendReport,
        limit=st.sampled_from([0.0, 5_000.0, 1_000_000.0]),
        period=st.sampled_from([0.0, 5.0, 60.0, -1.0, -2.0, -3.0]),
        started=st.sampled_from([0.0, 1.0, START]),
        ends_in=st.sampled_from([-1.0, 0.5, 9.0]),
        granted=money,
        returned=money,
        spent=money,
        needed=money,
        noted=money,
        elsewhere=money,
    ),
)
steps = st.tuples(
    st.sampled_from([0.0, 0.001, 0.1, 0.3, 1.0, 2.5, 11.0, 4_000.0, -3_600.0, 2e6, -9e6]),
    st.sampled_from("abcd"),
    reports,
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([0.0, 7.0, 7.0, 281_474_976_710_655.0]),
)
histories = st.lists(steps, min_size=1, max_size=25)

without_health_checks = settings(suppress_health_check=list(HealthCheck), deadline=None)


def test_the_script_answers_as_the_model_does(server, pytestconfig):
    client = redis.Redis.from_url(server.url)
    script = client.register_script(ValkeyStore(server.url)._script)
    examples = pytestconfig.getoption("--fleet-histories")

    @settings(without_health_checks, max_examples=examples)
    @given(histories)
    def check(history):
        client.flushall()
        scopes, now = {"t/x": Scope(), "t/y": Scope()}, START
        for span, member, report, quiet, server_id in history:
            now += span
            head = {"quiet_until": now + quiet if quiet else 0.0, "server": server_id}
            used = list(scopes)[: 1 if quiet else 2]  # the second one has another history
            expected = [beat(scopes[each], member, report, now, **head) for each in used]
            arguments = [member, *map(repr, report.numbers())] * len(used)
            keys, times = [*map(key_of, used)], map(repr, (now, *head.values()))
            reply = script(keys=keys, args=[*times, *arguments])
            assert expected == valkey._answers(reply, len(used))
        for name in used:
            assert scopes[name] == _read(client.hgetall(key_of(name)))

    check()
    client.close()


def test_a_parent_process_answers_as_the_model_does(pytestconfig, monkeypatch):
    monkeypatch.setattr(parent_store, "TIMEOUT", 60.0)  # the machine may be busy
    now = START
    with ParentStore(lambda: now, wall=lambda: now) as store:
        client = ParentClient(store.url)

        @settings(without_health_checks, max_examples=pytestconfig.getoption("--fleet-histories"))
        @given(histories)
        def check(history):
            nonlocal now
            store.scopes.clear()
            scope = Scope()
            for span, member, report, *_ in history:
                now += span
                (answer,) = client.beat([Message("t/x", member, report)])
                assert beat(scope, member, report, now) == answer

        check()
        client.close()
