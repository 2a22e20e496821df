"""Access logs: their forms, their times, and unreadable lines."""

import gzip
import time

import pytest
from table_test import table_test

from stormbreak.errors import ConfigurationError
from stormbreak.storm import access_log
from stormbreak.storm.access_log import Entry, Fields, read_log


def arrivals(path, *, column=None):
    return [entry.at for entry in read_log(path, Fields(time=column)).entries]


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
        "\ufeff10\r\n\r\n  11.5 \r\n11.5\r\n14\r\n",  # of any clock, from any system
        "4\n1.5\n0\n1.5",  # in any order
        "1764164000.25\n1764164001.75\n1764164001.75\n1764164004.25\n",  # seconds since 1970
        "-1\n0.5\n0.5\n3\n",
        "2026-11-26T13:30:00Z\n2026-11-26T13:30:01.5Z\n2026-11-26T14:30:01.5+01:00\n20261126T133004Z\n",
        "2026-11-26 13:30:00\n2026-11-26 13:30:01.500\n2026-11-26 13:30:01.5\n2026-11-26 13:30:04\n",
    ],
)
def test_times_are_read_in_every_form(log, text):
    assert arrivals(log(text)) == [0.0, 1.5, 1.5, 4.0]


@pytest.mark.parametrize(
    "text",
    [
        '{"at": 10, "user": 1}\n{"at": "11.5"}\n\n{"at": 14.0, "deep": {"at": 3}}\n',
        "user,at\n1,10\n2, 11.5\n3,14\n",
        'at,said\n2026-11-26T13:30:00Z,"hello, you"\n2026-11-26T13:30:01.5Z,x\n2026-11-26T13:30:04Z,\n',
    ],
)
def test_arrivals_are_read_from_a_json_field_or_a_csv_column(log, text):
    assert arrivals(log(text), column="at") == [0.0, 1.5, 4.0]


@table_test(
    ("text", "column", "message"),
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
        ("user,when\n" + "1,2\n" * 9, "at", ":1: no column is named 'at'; columns: 'user', 'when'"),
        ("user,at\n1,2\n3\n", "at", ":3: must be a number of seconds, got ''"),
        ("user,at\n" + "x" * 200_000, "at", ":2: not valid CSV"),
        ("x" * 1_100_000, None, ":1: longer than 1,048,576 characters"),
    ],
)
def test_an_invalid_log_is_rejected_in_one_line(log, text, column, message):
    path = log(text)
    with pytest.raises(ConfigurationError) as caught:
        arrivals(path, column=column)

    assert str(caught.value).startswith(f"{path}:")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_an_unreadable_file_is_rejected(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        arrivals(tmp_path / "none.log")
    (tmp_path / "raw").write_bytes(b"\xff\xfe1\n")
    with pytest.raises(ConfigurationError, match="raw:1: must be a time in ISO 8601"):
        arrivals(tmp_path / "raw")


def test_a_log_with_too_many_arrivals_is_rejected_while_it_is_read(log, monkeypatch):
    monkeypatch.setattr(access_log, "MAX_CALLS", 3)

    assert len(arrivals(log("1\n" * 3))) == 3
    with pytest.raises(ConfigurationError, match="must have at most 3 arrivals, has more"):
        arrivals(log("1\n" * 4 + "and what follows is not looked at"))


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="needs time zones")
def test_times_without_a_zone_have_no_daylight_saving(tmp_path, monkeypatch):
    """The time zone of this machine does not matter: an hour of the log is an hour."""
    log = tmp_path / "arrivals.log"
    log.write_text("2026-03-29T01:30:00\n2026-03-29T03:30:00\n")
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        assert arrivals(log) == [0.0, 7200.0]
    finally:
        monkeypatch.undo()
        time.tzset()


# ------------------------------------------------------------ forms with latencies

HEAD = '10.0.0.1 - ann [{time}] "POST /v1/chat HTTP/1.1" {status} 512 "-" "curl \\"8\\" 0.5"'


def combined(seconds, status=200, extra=""):
    time = f"29/Nov/2026:06:48:{seconds:02} +0100"
    return HEAD.format(time=time, status=status) + (f" {extra}" if extra else "") + "\n"


@table_test(
    ("extra", "field", "latency"),
    [
        ("", None, None),
        ("0.250", None, 0.25),
        ("250000", None, 0.25),
        ('rt=0.250 uct="0.001"', None, 0.25),
        ('uct="0.001" rt="0.250"', "rt", 0.25),
        ("0.250 0.100", None, 0.25),
        ("-", None, None),
    ],
)
def test_combined_lines_of_nginx_and_apache_are_read(log, extra, field, latency):
    path = log(combined(10, extra=extra) + combined(12, 499, extra))
    found = read_log(path, Fields(latency=field))
    assert found.entries == (Entry(0.0, latency, 200), Entry(2.0, latency, 499))


def test_usual_field_names_of_json_lines_and_csv_are_known(log):
    expected = (Entry(0.0, 0.5, 200), Entry(2.0, 0.25, 0))
    for text in (
        '{"ts": 10.5, "duration": 0.5, "status": 200}\n{"ts": 12.25, "duration": 0.25, "status": 0}\n',
        '{"time": 10.5, "latency_ms": 500, "status": "200"}\n{"time": 12.25, "latency_ms": 250, "status": null}\n',
        "time,request_time,status\n10.5,0.5,200\n12.25,0.25,-\n",
    ):
        assert read_log(log(text)).entries == expected
    text = '{"t": 10.5, "took": 500, "code": 200}\n{"t": 12.25, "took": 250, "code": 0}\n'
    fields = Fields(time="t", latency="took", status="code", unit="ms")
    assert read_log(log(text), fields).entries == expected


def test_a_gzip_file_is_read_and_a_damaged_one_is_rejected(tmp_path):
    path = tmp_path / "peak.log.gz"
    path.write_bytes(gzip.compress(b"10\n11.5\n14\n"))
    assert arrivals(path) == [0.0, 1.5, 4.0]
    for damaged in (path.read_bytes()[:-9], path.read_bytes()[:12] + b"xxxxxxxx"):
        path.write_bytes(damaged)
        with pytest.raises(ConfigurationError, match=r"peak.log.gz: a damaged gzip file"):
            read_log(path)


@table_test(
    ("lines", "time_is", "arrivals"),
    [
        ([(10.0, 5.0), (11.0, 1.0)], "end", [0.0, 5.0]),  # in order of the times: ends, as in nginx
        (
            [(11.0, 1.0), (10.0, 5.0)],
            "start",
            [0.0, 1.0],
        ),  # in order of the ends: starts, as in Apache
    ],
)
def test_the_order_of_lines_distinguishes_starts_from_ends(log, lines, time_is, arrivals):
    path = log("time,latency\n" + "".join(f"{at},{latency}\n" for at, latency in lines))
    found = read_log(path)
    assert found.time_is == time_is
    assert [entry.at for entry in found.entries] == arrivals
    other = "start" if time_is == "end" else "end"
    assert read_log(path, time_is=other).time_is == other


def test_whole_seconds_distinguish_starts_from_ends(log):
    """Apache writes the start of a request at its end, in whole seconds."""
    starts = [(at / 5, 0.2 + 3.0 * (at % 7 == 0)) for at in range(300)]
    by_end = sorted(starts, key=sum)
    extra = [(int(at), f"{round(latency * 1e6)}") for at, latency in by_end]
    apache = "".join(combined(at, extra=text) for at, text in extra)
    assert read_log(log(apache)).time_is == "start"
    nginx = "".join(combined(int(sum(each)), extra=f"{each[1]:.3f}") for each in by_end[:250])
    assert read_log(log(nginx)).time_is == "end"


def test_lines_of_one_second_are_spread_over_it(log):
    found = read_log(log(combined(10, extra="0.001") * 500 + combined(11, extra="0.001") * 2))
    times = [entry.at for entry in found.entries]
    assert found.whole_seconds
    assert len(set(times)) == len(times)
    in_tenths = [sum(place <= 10 * at < place + 1 for at in times) for place in range(10)]
    assert min(in_tenths) > 25 and max(in_tenths) < 80  # noqa: PT018
    assert times == [entry.at for entry in read_log(log(combined(10, extra="0.001") * 500 + combined(11, extra="0.001") * 2)).entries]  # fmt: skip


def test_a_herd_at_exact_times_stays_a_herd(log):
    assert arrivals(log("0\n" * 50 + "60\n" * 50)) == [0.0] * 50 + [60.0] * 50


# ------------------------------------------------------------ lines that cannot be read


def test_a_few_unreadable_lines_are_counted_and_named(log):
    path = log(combined(10) * 150 + "\x16\x03\x01\n" + combined(11) * 50 + "soon\n" * 4)
    found = read_log(path)
    assert (found.lines, found.left_out, len(found.entries)) == (205, 5, 200)
    why = "not a line in the combined form of nginx and Apache"
    counted = "5 of 205 lines are left out"
    assert found.warning == f"{path}: {counted}: 151 ({why}), 202, 203 and 2 more"
    assert read_log(log("1\n2\n")).warning is None


def test_too_many_unreadable_lines_are_an_error(log):
    with pytest.raises(ConfigurationError) as caught:
        read_log(log(combined(10) * 94 + "soon\n" * 6))
    assert str(caught.value).endswith("and Apache (6 of 100 lines cannot be read)")
    with pytest.raises(ConfigurationError, match=r"1,000 of 1,010 lines"):
        read_log(log(combined(10) * 10 + "soon\n" * 100_000))
