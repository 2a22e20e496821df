"""A scenario from a log: what the log shows, and what it does not show."""

from dataclasses import replace

import pytest
from access_logs import as_json, as_nginx, provider_log
from table_test import table_test

from stormbreak.cli.main import main
from stormbreak.errors import ConfigurationError
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.scenario import Fault, Limit, LimitKind, Load, Provider, Scenario, Step
from stormbreak.provider.scenario_file import load, parse
from stormbreak.storm.access_log import Entry, read_log
from stormbreak.storm.fit.evidence import evidence, is_failure, outages
from stormbreak.storm.fit.limits import Arrival, fit_limits
from stormbreak.storm.fit.scenario import fit

STEADY = Scenario(
    name="steady",
    duration=200.0,
    provider=Provider(slots=20, service=1.0, variation=0.6),
    load=Load(rate=12.0, timeout=15.0),
)
PEAK = replace(
    STEADY,
    provider=replace(STEADY.provider, queue=100),
    load=Load(rate=12.0, steps=(Step(at=60.0, rate=40.0), Step(at=90.0, rate=12.0)), timeout=15.0),
)
OUTAGE = replace(STEADY, faults=(Fault(kind=Kind.DOWN, at=60.0, until=100.0),))


@pytest.fixture
def fitted(tmp_path):
    """Make a log of a scenario, and fit it."""

    def make(scenario, form=as_json, seed=7):
        path = tmp_path / "site.log"
        path.write_text(form(provider_log(scenario, seed)))
        return fit(read_log(path))

    return make


# ------------------------------------------------------------ three shapes


@table_test("form", [as_json, as_nginx])
def test_a_steady_log_bounds_the_slots_from_below_only(fitted, form):
    found = fitted(STEADY, form)
    provider = found.scenario.provider
    assert provider.service == pytest.approx(1.0, rel=0.1)
    assert provider.variation == pytest.approx(0.6, abs=0.1)
    findings = " ".join(found.found)
    assert "Slots: at least " in findings
    bound = int(findings.partition("Slots: at least ")[2].partition(";")[0])
    assert 12 < bound <= (20 if form is as_json else 23)  # whole seconds are not exact
    unknown = " ".join(found.unknown)
    for gap in (
        f"there may be any number from {bound} on",
        "A request limit: none was reached",
        "Token limits",
        "The room of the queue: it was never full",
        "The timeout of an attempt: no group",
        "Your deadline and the number of your processes",
        "Requests of other clients",
    ):
        assert gap in unknown


@table_test("form", [as_json, as_nginx])
def test_a_peak_shows_the_slots_and_the_size_of_the_queue(fitted, form):
    found = fitted(PEAK, form)
    provider = found.scenario.provider
    assert provider.service == pytest.approx(1.0, rel=0.1)
    assert provider.slots == pytest.approx(20, rel=0.15)
    assert form is as_nginx or provider.queue == pytest.approx(100, rel=0.1)
    assert found.scenario.load.rate == pytest.approx(12.0, rel=0.15)
    assert max(step.rate for step in found.scenario.load.steps) == pytest.approx(40.0, rel=0.15)
    unknown = " ".join(found.unknown)
    assert "any number" not in unknown
    assert "more slots while not all were busy" in unknown
    assert ("the log has whole seconds" in unknown) == (form is as_nginx)


def test_an_outage_is_reported_and_left_out(fitted):
    found = fitted(OUTAGE)
    findings = " ".join(found.found)
    assert "Outage from 60.0 to 100.0 s: status 503" in findings.replace("60.1", "60.0").replace(
        "99.9", "100.0"
    )
    assert found.scenario.faults == ()
    assert found.scenario.provider.service == pytest.approx(1.0, rel=0.1)
    unknown = " ".join(found.unknown)
    assert "Why the outage began and ended" in unknown
    assert "The slots: requests never waited" in unknown


# ------------------------------------------------------------ capacity


def test_clients_that_time_out_are_censored_and_not_left_out(fitted):
    """Without them, service would look shorter and slots fewer."""
    slow = Provider(slots=10, service=2.0, variation=1.2)
    steps = (Step(at=30.0, rate=9.0), Step(at=60.0, rate=3.0))
    storm = replace(STEADY, provider=slow, load=Load(rate=3.0, steps=steps, timeout=8.0))
    found = fitted(storm)
    assert found.scenario.load.timeout == pytest.approx(8.0, rel=0.01)
    assert found.scenario.provider.service == pytest.approx(2.0, rel=0.15)
    assert found.scenario.provider.slots == pytest.approx(10, rel=0.15)
    assert "the target keeps working for them" in " ".join(found.found)


def test_hung_requests_are_not_counted_as_work(fitted):
    hung = replace(PEAK, faults=(Fault(kind=Kind.HANG, share=0.1),))
    found = fitted(hung)
    assert "the target drops them" in " ".join(found.found)
    assert found.scenario.provider.slots == pytest.approx(20, rel=0.15)


def test_a_change_of_the_service_time_is_reported(fitted):
    slow = replace(STEADY, faults=(Fault(kind=Kind.SERVICE, factor=3.0, at=100.0),))
    steady = " ".join(fitted(STEADY).unknown)
    assert "One capacity for the whole log" not in steady
    assert "One capacity for the whole log: the median service time is" in " ".join(
        fitted(slow).unknown
    )


def test_random_failures_become_a_fault(fitted):
    faults = (Fault(kind=Kind.S500, share=0.05),)
    (found,) = fitted(replace(STEADY, faults=faults)).scenario.faults
    assert (found.kind, found.share) == (Kind.S500, pytest.approx(0.05, abs=0.015))


# ------------------------------------------------------------ limits

BUSY = Load(rate=10.0, steps=(Step(at=30.0, rate=40.0), Step(at=150.0, rate=10.0)), timeout=15.0)
WIDE = Provider(slots=200, service=1.0)


@table_test(
    "limit",
    [
        Limit(kind=LimitKind.WINDOW, requests=900.0, period=60.0),
        Limit(kind=LimitKind.WINDOW, requests=150.0, period=10.0),
        Limit(kind=LimitKind.BUCKET, requests=900.0, burst=60.0),
    ],
)
def test_a_request_limit_is_found(fitted, limit):
    storm = replace(STEADY, provider=WIDE, limit=limit, load=BUSY)
    found = fitted(storm).scenario.limit
    assert (found.kind, found.period) == (limit.kind, limit.period)
    assert found.requests == pytest.approx(limit.requests, rel=0.05)
    if limit.burst is not None:
        assert found.burst == pytest.approx(limit.burst, rel=0.15)


def test_random_429s_are_no_limit(fitted):
    storm = replace(STEADY, provider=WIDE, load=BUSY, faults=(Fault(kind=Kind.S429, share=0.2),))
    found = fitted(storm)
    assert found.scenario.limit is None
    assert "no queue, window or bucket explains nine of ten" in " ".join(found.unknown)


def test_nine_refusals_are_too_few_for_a_limit():
    """Many limits would explain so few."""
    taken = [Arrival(float(at), False, 0) for at in range(90)]
    full = [Arrival(90.0 + at, True, 1) for at in range(10)]
    assert fit_limits(taken) == fit_limits(taken + full[:9]) == []
    assert fit_limits(taken + full)[0].kind == "queue"


def test_latencies_of_zero_are_rejected(tmp_path):
    path = tmp_path / "access.log"
    path.write_text("time,latency\n" + "1,0\n" * 50)
    with pytest.raises(ConfigurationError, match=r"access.log: all latencies are 0: log seconds"):
        fit(read_log(path))


# ------------------------------------------------------------ outages


def test_outages_are_stretches_of_failures():
    states = (
        [200] * 50 + [503] * 30 + [200] * 50 + [500, 200] * 20 + [503] * 20 + [200] + [503] * 20
    )
    entries = [Entry(float(at), 0.1, status) for at, status in enumerate(states)]
    assert outages(entries, is_failure) == [(50.0, 79.0, 503, 30, 0), (170.0, 210.0, 503, 40, 1)]
    assert outages(entries[:50], is_failure) == []


# ------------------------------------------------------------ errors, files


def test_a_log_without_latencies_names_the_missing_field(tmp_path):
    path = tmp_path / "access.log"
    path.write_text("1\n2\n")
    with pytest.raises(
        ConfigurationError, match=r"access.log: has no latencies: in nginx, add \$request_time"
    ):
        fit(read_log(path))
    path.write_text("time,latency\n1,2\n2,2\n")
    with pytest.raises(ConfigurationError, match=r"access.log: only 2 requests have an answer"):
        fit(read_log(path))


def test_the_busiest_part_of_a_long_log_shows_the_capacity(monkeypatch):
    entries = sorted(provider_log(PEAK))
    monkeypatch.setattr("stormbreak.storm.fit.evidence.MOST", 1500)
    found = evidence(entries)
    assert found.used == 1500
    assert found.capacity.best.slots == pytest.approx(20, rel=0.15)


def test_the_command_writes_a_scenario_that_runs(tmp_path, capsys):
    path = tmp_path / "shop.access.log"
    path.write_text(as_json(provider_log(PEAK)))
    assert main(["storm", "fit", str(path)]) == 0
    text = capsys.readouterr().out
    scenario = parse(text, source="shop.toml")
    assert scenario.name == "shop"
    output = tmp_path / "shop.toml"
    assert main(["storm", "fit", str(path), "-o", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "What the log cannot tell:" in printed
    assert output.read_text() == text
    assert load(output) == scenario
    assert f"stormbreak storm run {output} --arrivals {path} --scale 3.4" in printed
    assert main(["storm", "run", str(output), "--arrivals", str(path), "--scale", "0.3"]) == 0
    assert main(["storm", "fit", str(path), "-o", str(tmp_path / "no" / "shop.toml")]) == 2
    assert "--output" in capsys.readouterr().err
