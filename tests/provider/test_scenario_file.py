"""Scenario files are read into scenarios, and each error in one is one line."""

import pytest
from table_test import table_test

from stormbreak.errors import ConfigurationError
from stormbreak.provider.fault_kinds import CONDITIONS, Kind, WaitForm
from stormbreak.provider.scenario import Burst, Fault, Provider, Scenario, Step
from stormbreak.provider.scenario_file import builtin_names, load, parse


def test_every_builtin_scenario_has_a_name_and_a_description():
    assert {"calm", "incident", "outage", "ratelimit", "chaos"} <= set(builtin_names())
    for name in builtin_names():
        scenario = load(name)
        assert scenario.name == name
        assert scenario.description


def test_a_misspelt_scenario_gets_the_nearest_name_as_a_hint():
    with pytest.raises(ConfigurationError, match="'inciden'; did you mean incident\\? scenarios: "):
        load("inciden")


def test_hostile_has_every_fault_that_a_client_can_see():
    played = {fault.kind for fault in load("hostile").faults}
    unseen = {Kind.STALE, Kind.EARLY_ANSWER, Kind.PROSE}
    assert played == set(Kind) - CONDITIONS - unseen


def test_chaos_plays_the_everyday_faults():
    chaos = load("chaos")
    assert {fault.kind for fault in chaos.faults} == {
        *(Kind.S429, Kind.S500, Kind.S502, Kind.S503, Kind.S504, Kind.S529, Kind.RESET, Kind.HANG),
        *(Kind.SLOW_HEADERS, Kind.SLOW_BODY, Kind.CUT_BODY, Kind.EMPTY_BODY, Kind.INVALID_JSON),
        *(Kind.ERROR_IN_200, Kind.CUT_STREAM, Kind.STREAM_RESET),
    }
    forms = {
        fault.retry_after_form if fault.retry_after else WaitForm.BARE
        for fault in chaos.faults
        if fault.kind is Kind.S429
    }
    assert forms == set(WaitForm)


def test_a_file_describes_provider_faults_and_load(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("""
        description = "a dip"
        speed = 5
        [provider]
        slots = 100
        service = 2
        [[faults]]
        kind = "capacity"
        factor = 0.2
        at = 30
        until = 40
        [[faults]]
        kind = "429"
        share = 0.3
        retry_after = 2.5
        retry_after_form = "ms"
        [load]
        rate = 42.5
        steps = [{ at = 10, rate = 50 }]
        bursts = [{ at = 60, calls = 1200, repeat = 5 }]
        processes = 20
    """)
    scenario = load(path)
    assert scenario.name == "mine"
    assert scenario.provider == Provider(slots=100, service=2.0)
    assert scenario.faults == (
        Fault(kind=Kind.CAPACITY, factor=0.2, at=30.0, until=40.0),
        Fault(kind=Kind.S429, share=0.3, retry_after=2.5, retry_after_form=WaitForm.MS),
    )
    assert scenario.load.steps == (Step(at=10.0, rate=50.0),)
    assert scenario.load.bursts == (Burst(at=60.0, calls=1200, repeat=5),)


@table_test(
    ("toml", "message"),
    [
        ("slots = 3", "unknown key slots = 3; known: name, description,"),
        ("[provider]\nslotz = 3", "unknown key provider.slotz = 3; did you mean slots?"),
        ("[provider]\nslots = -3", "provider.slots must be at least 1, got -3"),
        ("[provider]\nslots = 2.5", "provider.slots must be a whole number, got 2.5"),
        ("[provider]\nslots = true", "provider.slots must be a whole number, got true"),
        ("[provider]\nservice = nan", "provider.service must be a finite number, got nan"),
        ("[provider]\nservice = -inf", "provider.service must be a finite number, got -inf"),
        ("[provider]\nservice = '2 s'", "provider.service must be a number, got '2 s'"),
        ("[provider]\nprefill = 1.5", "provider.prefill must be between 0 and 1, got 1.5"),
        (
            "[provider]\nmin_service = 5\nmax_service = 2",
            "provider.max_service must not be below min_service (5.0), got 2.0",
        ),
        ("[provider]\nmodels = 'a'", "provider.models must be a list, got 'a'"),
        ("provider = 3", "provider must be a table, got 3"),
        ("speed = 0", "speed must be positive, got 0"),
        (
            "[limit]\nkind = 'sliding'\nrequests = 3",
            "limit.kind must be one of window, bucket, got",
        ),
        (
            "[limit]\nkind = 'window'",
            "limit.requests or tokens must be given, got neither",
        ),
        ("[[faults]]\nkind = '418'", "faults[0].kind must be one of capacity, service, down,"),
        (
            "[[faults]]\nkind = 'hang'\nshare = 2",
            "faults[0].share must be between 0 and 1, got 2",
        ),
        (
            "[[faults]]\nkind = 'hang'\nfactor = 2",
            "faults[0].factor does not apply to the kind 'hang', got 2",
        ),
        ("[[faults]]\nkind = 'capacity'", "faults[0].factor is needed for the kind 'capacity'"),
        (
            "[[faults]]\nkind = 'down'\nat = 5\nuntil = 5",
            "faults[0].until must be after at (5.0), got 5.0",
        ),
        (
            "[[faults]]\nkind='500'\nshare=0.6\n[[faults]]\nkind='502'\nshare=0.6\nat=3",
            "faults: shares must not add up to more than 1, got 1.2 at 3 s",
        ),
        ("[[faults]]\nkind='500'\nmatch=''", "faults[0].match must not be empty"),
        (
            "[[faults]]\nkind='500'\nrequests=[1, 0]",
            "faults[0].requests must be at least 1, got 0",
        ),
        (
            "[[faults]]\nkind='500'\nfirst_attempts=1.5",
            "faults[0].first_attempts must be a whole number, got 1.5",
        ),
        (
            "[[faults]]\nkind='down'\nfirst_attempts=1",
            "faults[0].first_attempts does not apply to the kind 'down', got 1",
        ),
        (
            "[[faults]]\nkind='budget'",
            "faults[0].retry_after is needed for the kind 'budget', got none",
        ),
        (
            "[background_traffic]\nrate = 1\nsteps = [{at=5, rate=1}, {at=5, rate=2}]",
            "background_traffic.steps must be in order of at",
        ),
        (
            "[load]\narrivals = 'odd'\nrate = 1",
            "load.arrivals must be one of poisson, even, got 'odd'",
        ),
        ("[load]\nprocesses = 2", "load.rate must be positive if there are no bursts, got 0.0"),
        ("[provider", "invalid TOML: "),
    ],
)
def test_an_error_in_a_scenario_is_one_line_with_file_key_and_value(toml, message):
    with pytest.raises(ConfigurationError) as caught:
        parse(toml, source="bad.toml")
    assert str(caught.value).startswith(f"bad.toml: {message}")
    assert "\n" not in str(caught.value)


def test_a_scenario_made_in_python_is_validated():
    with pytest.raises(ConfigurationError, match="speed must be positive, got nan"):
        Scenario(name="x", speed=float("nan"))


def test_an_unknown_scenario_name_lists_the_known_names():
    with pytest.raises(
        ConfigurationError, match=r"has the name 'storm'; scenarios: .*calm, calm-burst, chaos"
    ):
        load("storm")


def test_an_unreadable_scenario_file_is_named(tmp_path):
    path = tmp_path / "latin.toml"
    path.write_bytes(b'description = "\xff"')
    with pytest.raises(ConfigurationError, match=r"latin\.toml: not UTF-8 text \(line 1\)"):
        load(path)


STORMS = {
    "dip": "[provider]\nslots=100\nservice=2\n[[faults]]\nkind='capacity'\nfactor=0.2\nat=30\nuntil=40\n[load]\nrate=42.5\ntimeout=6",
    "blackhole": "[[faults]]\nkind='hang'\nat=30\nuntil=90\n[load]\nrate=42.5\nprocesses=20",
    "rpm-bucket": "[limit]\nkind='bucket'\nrequests=1800\nburst=60\nreject_cost=0.2\n[load]\nrate=24\nsteps=[{at=30,rate=45},{at=150,rate=24}]\ndeadline=60",
    "gather": "[load]\nbursts=[{at=0,calls=5000}]\nprocesses=5\ndeadline=600\ntimeout=60\npreset='batch'",
    "partial": "[[faults]]\nkind='529'\nshare=0.3\nat=30\nuntil=330\n[load]\nrate=30",
    "serverless": "[[faults]]\nkind='capacity'\nfactor=0.1\nat=30\nuntil=90\n[load]\nrate=42.5\nprocesses=2000",
    "brownout": "[[faults]]\nkind='service'\nfactor=4\nat=30\nuntil=150\n[load]\nrate=42.5",
    "herd": "[load]\nrate=25\nbursts=[{at=30,calls=1200,repeat=5,every=60}]\ndeadline=60",
    "calm-burst": "[provider]\nslots=400\nservice=10\n[load]\nbursts=[{at=10,calls=200,repeat=2,every=80}]\ntimeout=60",
    "sparse": "[provider]\nservice=20\n[[faults]]\nkind='503'\nshare=0.02\n[load]\nrate=0.016667\ndeadline=600\ntimeout=600",
    "mixed-lengths": "[provider]\nservice=20\nvariation=2\nmin_service=1\nmax_service=120\n[load]\nrate=3\ndeadline=600\ntimeout=600",
}


@table_test("name", STORMS)
def test_the_scenario_format_can_describe_every_storm(name):
    assert parse(STORMS[name], source=f"{name}.toml").load is not None
