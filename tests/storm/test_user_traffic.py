"""One's own calls: logs of arrivals, and batches."""

import time
from dataclasses import replace

import pytest
from table_test import table_test

from stormbreak.core.presets import OFF
from stormbreak.errors import ConfigurationError
from stormbreak.provider.scenario import Load, Provider, Scenario
from stormbreak.provider.scenario_file import load, parse
from stormbreak.storm import simulate, user_traffic
from stormbreak.storm.traffic import traffic
from stormbreak.storm.user_traffic import read_arrivals, with_arrivals, with_batch


@pytest.fixture
def log(tmp_path):
    """Writes a log."""

    def write(text):
        path = tmp_path / "peak.log"
        path.write_text(text, newline="")
        return path

    return write


# ------------------------------------------------------------ logs


@table_test(
    "text",
    [
        "0\n1.5\n1.5\n4\n",
        "\ufeff10\r\n\r\n  11.5 \r\n11.5\r\n14\r\n",  # of whatever clock, from whatever system
        "4\n1.5\n0\n1.5",  # in any order
        "1764164000.25\n1764164001.75\n1764164001.75\n1764164004.25\n",  # seconds since 1970
        "-1\n0.5\n0.5\n3\n",
        "2026-11-26T13:30:00Z\n2026-11-26T13:30:01.5Z\n2026-11-26T14:30:01.5+01:00\n20261126T133004Z\n",
        "2026-11-26 13:30:00\n2026-11-26 13:30:01.500\n2026-11-26 13:30:01.5\n2026-11-26 13:30:04\n",
    ],
)
def test_times_in_every_form(log, text):
    assert read_arrivals(log(text)) == [0.0, 1.5, 1.5, 4.0]


@pytest.mark.parametrize(
    "text",
    [
        '{"at": 10, "user": 1}\n{"at": "11.5"}\n\n{"at": 14.0, "deep": {"at": 3}}\n',
        "user,at\n1,10\n2, 11.5\n3,14\n",
        'at,said\n2026-11-26T13:30:00Z,"hello, you"\n2026-11-26T13:30:01.5Z,x\n2026-11-26T13:30:04Z,\n',
    ],
)
def test_a_field_of_json_lines_or_a_column(log, text):
    assert read_arrivals(log(text), column="at") == [0.0, 1.5, 4.0]


@table_test(
    ("text", "column", "complaint"),
    [
        ("", None, "has no arrivals"),
        ("\n \n", None, "has no arrivals"),
        ("at\n", "at", "has no arrivals"),
        ("1\nsoon\n", None, ":2: must be a number of seconds, got 'soon'"),
        ("1\n2026-11-26T13:30:00Z\n", None, ":2: must be a number of seconds, got '2026-11-26T"),
        (
            "2026-11-26T13:30:00Z\n17\n",
            None,
            ":2: must be a time in ISO 8601, or seconds, got '17'",
        ),
        ("hello\n", None, ":1: must be a time in ISO 8601, or seconds, got 'hello'"),
        ("nan\n", None, ":1: must be a number of seconds, got 'nan'"),
        ("1\n1e999\n", None, ":2: must be a number of seconds, got '1e999'"),
        ("1\nsk-proj-abcdefgh12345678\n", None, ":2: must be a number of seconds, got what looks"),
        (
            "1764164000250\n1764165000250\n",
            None,
            "must be within 1,000,000 s, got 1,000,000 s (milli",
        ),
        ('{"at": 1}\n{"on": 2}\n', "at", ":2: has no field 'at'"),
        ('{"at": 1}\n{"at": \n', "at", ":2: invalid JSON"),
        ('{"at": null}\n', "at", ":1: must be a time in ISO 8601, or seconds, got 'None'"),
        ("user,when\n1,2\n", "at", ":1: no column is named 'at'; columns: 'user', 'when'"),
        ("user,at\n1,2\n3\n", "at", ":3: must be a number of seconds, got ''"),
        ("user,at\n" + "x" * 200_000, "at", ":2: not valid CSV"),
        ("x" * 1_100_000, None, ":1: longer than 1,048,576 characters"),
    ],
)
def test_what_is_no_log_is_refused_in_one_line(log, text, column, complaint):
    path = log(text)
    with pytest.raises(ConfigurationError) as caught:
        read_arrivals(path, column=column)

    assert str(caught.value).startswith(f"{path}:")
    assert complaint in str(caught.value)
    assert len(str(caught.value)) < 400


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        read_arrivals(tmp_path / "none.log")
    (tmp_path / "raw").write_bytes(b"\xff\xfe1\n")
    with pytest.raises(ConfigurationError, match="raw: not UTF-8 text"):
        read_arrivals(tmp_path / "raw")


def test_more_than_can_be_simulated_is_refused_while_it_is_read(log, monkeypatch):
    monkeypatch.setattr(user_traffic, "MAX_CALLS", 3)

    assert len(read_arrivals(log("1\n" * 3))) == 3
    with pytest.raises(ConfigurationError, match="must have at most 3 arrivals, has more"):
        read_arrivals(log("1\n" * 4 + "and what follows is not looked at"))


# ------------------------------------------------------------ in a scenario


def test_calls_arrive_exactly_then_with_every_seed():
    storm = with_arrivals(load("dip"), [0.0, 0.25, 0.25, 70.0])

    assert traffic(storm.load, storm.duration, seed=1).times == [0.0, 0.25, 0.25, 70.0]
    assert traffic(storm.load, storm.duration, seed=2).times == [0.0, 0.25, 0.25, 70.0]
    result = simulate(storm, OFF, seed=1)
    assert (result.series.calls[0], result.series.calls[70]) == (3, 1)
    assert sum(result.series.answers) == 4


def test_no_calls_of_the_scenario_are_left():
    storm = load("herd")
    assert storm.load.bursts
    ours = with_arrivals(storm, [0.0, 90.0])
    assert traffic(ours.load, ours.duration, seed=1).times == [0.0, 90.0]


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="needs time zones")
def test_times_without_a_zone_know_no_summer(tmp_path, monkeypatch):
    """Where this machine stands does not matter: an hour of the log is an hour."""
    log = tmp_path / "arrivals.log"
    log.write_text("2026-03-29T01:30:00\n2026-03-29T03:30:00\n")
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        assert read_arrivals(log) == [0.0, 7200.0]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_calls_of_which_none_would_be_measured_are_refused():
    """Or every measure would be perfect: nothing lost of nothing."""
    short = with_arrivals(load("dip"), [0.0, 29.9])
    with pytest.raises(
        ConfigurationError, match="dip: no call arrives from the trigger at 30 s on"
    ):
        simulate(short, OFF)
    assert simulate(with_arrivals(load("dip"), [0.0, 30.0]), OFF).measures.calls == 1

    rare = Scenario(name="rare", duration=1.0, provider=Provider(), load=Load(rate=1e-6))
    with pytest.raises(ConfigurationError, match="rare: no call arrives in 1 s"):
        simulate(rare, OFF)


def test_all_else_of_the_scenario_stays_and_it_lasts_until_the_last_has_come():
    dip = load("dip")
    storm = with_arrivals(dip, [0.0, 400.0])

    assert storm.duration == 401.0
    assert with_arrivals(dip, [0.0, 1.0]).duration == dip.duration
    assert (storm.provider, storm.faults) == (dip.provider, dip.faults)
    assert storm.load == replace(dip.load, rate=0.0, arrival_times=(0.0, 400.0))


def test_a_scenario_without_a_load_can_be_played_then():
    storm = with_arrivals(load("calm"), [0.0, 1.0])

    assert storm.load == Load(arrival_times=(0.0, 1.0))
    assert simulate(storm, OFF).measures.calls == 2


def test_a_batch_is_one_process_at_once_of_which_all_is_measured():
    storm = with_batch(load("outage"), [100, 300])

    assert storm.load == Load(
        arrival_times=(0.0, 0.0),
        arrival_tokens=(100, 300),
        tokens=200.0,
        preset="batch",
        deadline=3600.0,
        timeout=60.0,
    )
    calls = traffic(storm.load, storm.duration, seed=1)
    assert (calls.times, calls.tokens) == ([0.0, 0.0], [100, 300])
    assert simulate(storm, OFF).measures.calls == 2


def test_the_scenario_of_a_batch_says_how_patient_its_rows_are():
    gather = load("gather")
    storm = with_batch(gather, [10])

    assert (storm.load.deadline, storm.load.timeout) == (gather.load.deadline, gather.load.timeout)


# ------------------------------------------------------------ in a file


def test_a_file_may_name_the_times_itself():
    storm = parse(
        "duration = 10\n[load]\narrival_times = [0, 1.5, 1.5]\narrival_tokens = [10, 20, 30]\n"
    )

    assert traffic(storm.load, 10.0, seed=1).times == [0.0, 1.5, 1.5]
    assert traffic(storm.load, 10.0, seed=1).tokens == [10, 20, 30]


@table_test(
    ("text", "complaint"),
    [
        ("arrival_times = [2, 1]", "load.arrival_times must be in order, got 1.0 after 2.0"),
        (
            "arrival_times = [1]\nrate = 2",
            "load.arrival_times cannot be combined with rate, steps or bursts",
        ),
        (
            "arrival_times = [1, 2]\narrival_tokens = [3]",
            "load.arrival_tokens must have as many values as arrival_times (2), got 1",
        ),
        (
            "arrival_tokens = [3]",
            "load.arrival_tokens must have as many values as arrival_times (0), got 1",
        ),
        ("arrival_times = [-1]", "load.arrival_times must be zero or positive, got -1"),
        (
            "arrival_times = [10]",
            "load.arrival_times must be before the end (duration 10.0), got 10.0",
        ),
        ("arrival_times = []", "load.rate must be positive if there are no bursts, got 0.0"),
    ],
)
def test_what_such_a_file_cannot_say(text, complaint):
    with pytest.raises(ConfigurationError) as caught:
        parse(f"duration = 10\n[load]\n{text}\n")
    assert complaint in str(caught.value)
