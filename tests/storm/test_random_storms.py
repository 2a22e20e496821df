"""Random storms: within their bounds, deterministic by seed, and equal after a write and a read."""

from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.errors import ConfigurationError
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.scenario_file import builtin_names, dump, load, parse
from stormbreak.provider.timeline import forecast
from stormbreak.storm.ideal import check_length, ideal_throughput, within
from stormbreak.storm.measures import RECOVERY_WINDOW
from stormbreak.storm.random_storms import FAMILIES, FLEETS, MAX_CALLS, draw, families_of
from stormbreak.storm.simulated_provider import check_playable
from stormbreak.storm.traffic import check_measured, traffic

PRESETS = ("interactive", "batch")
NUMBERS = range(120)


def calls_of(scenario):
    return traffic(scenario.load, scenario.duration, seed=1)


@table_test("preset", PRESETS)
def test_draws_stay_within_their_bounds(preset):
    for number in NUMBERS:
        drawn = draw(number, seed=5, preset=preset)
        scenario = drawn.scenario
        load, provider = scenario.load, scenario.provider
        assert provider.slots >= (2 if drawn.family == "burst" else 10)
        assert 0.2 <= provider.service <= 10
        assert 0.2 <= provider.variation <= 1.5
        assert 1 <= load.processes <= 500
        ends = [fault.until for fault in scenario.faults if fault.until is not None]
        assert all(end <= scenario.duration for end in ends)
        tested_below = ("slow_spare", "sustained_overload", "burst")
        if drawn.family not in tested_below:
            assert provider.slots <= 5 * 400
            assert 2.99 <= load.timeout / provider.service <= 12.01
            assert load.deadline >= 1.49 * load.timeout
            assert len(ends) == len(scenario.faults)
        assert scenario.duration <= 1_300
        check_length(scenario)
        check_playable(scenario)


def test_a_storm_is_measurable_and_not_too_long():
    for number in NUMBERS:
        drawn = draw(number, seed=5)
        scenario = drawn.scenario
        calls = calls_of(scenario)
        check_measured(scenario, calls)
        assert 0 < len(calls.times) <= 2.1 * MAX_CALLS
        assert 30 <= scenario.load.trigger_at <= 60 or (
            drawn.family in ("sustained_overload", "burst") and scenario.load.trigger_at == 0
        )
        assert scenario.load.trigger_until <= scenario.duration - RECOVERY_WINDOW
        if number % 15 == 0:  # the ideal of all storms takes long
            assert within(ideal_throughput(scenario, calls.times), scenario.load.trigger_at) >= 1


def test_all_rows_of_a_batch_arrive_at_once():
    for number in NUMBERS:
        scenario = draw(number, seed=5, preset="batch").scenario
        times = calls_of(scenario).times
        assert 200 <= len(times) <= 5_000
        assert set(times) == {0.0}


@table_test("preset", PRESETS)
def test_a_slow_spare_storm_has_free_slots_and_time(preset):
    kinds = Counter()
    for number in NUMBERS:
        scenario = draw(number, seed=5, families=["slow_spare"], preset=preset).scenario
        load, provider = scenario.load, scenario.provider
        slowest = max(phase.slowdown for phase in forecast(scenario))
        added = max(
            [f.added_latency for f in scenario.faults if f.kind is Kind.SLOW_HEADERS], default=0
        )
        # A fault rounds its factor to three digits.
        assert load.rate * provider.service * slowest <= 0.7 * provider.slots
        assert load.timeout >= 1.49 * max(provider.service * slowest, added)
        assert load.deadline >= 1.19 * load.timeout
        kinds["share" if added else "steps" if len(scenario.faults) > 1 else "at once"] += 1
    assert min(kinds.values()) > len(NUMBERS) / 5
    assert set(kinds) == {"share", "steps", "at once"}


def test_a_sustained_overload_exceeds_the_capacity_with_a_bounded_queue():
    begins = Counter()
    for number in NUMBERS:
        scenario = draw(number, seed=5, families=["sustained_overload"]).scenario
        load, provider = scenario.load, scenario.provider
        use = load.steps[0].rate * provider.service / provider.slots
        assert 1.09 <= use <= 4.04
        assert provider.slots - 1 <= provider.queue <= 8 * provider.slots
        assert load.processes <= 60
        assert 2.99 <= load.timeout / provider.service <= 10.01
        assert load.deadline >= 1.19 * load.timeout
        begins["at once" if load.trigger_at == 0 else "after a calm"] += 1
    assert min(begins.values()) > len(NUMBERS) / 3
    assert set(begins) == {"at once", "after a calm"}


def test_a_burst_comes_from_a_few_processes_mostly_at_the_start():
    begins = Counter()
    for number in NUMBERS:
        scenario = draw(number, seed=5, families=["burst"]).scenario
        load, provider = scenario.load, scenario.provider
        times = [at for at in calls_of(scenario).times if at >= load.trigger_at]
        assert 2 <= provider.slots <= 60
        assert load.processes <= 20
        assert 2.99 <= load.timeout / provider.service <= 10.01
        assert 1.49 <= load.deadline / load.timeout <= 10.01
        sent = sum(at < load.trigger_at + 1.0 for at in times)
        assert 1 <= sent <= 1.2 * MAX_CALLS / 2
        begins["at once" if load.trigger_at == 0 else "after a calm"] += 1
    assert set(begins) == {"at once", "after a calm"}
    assert begins["at once"] > begins["after a calm"]


def test_families_take_turns_and_fleets_of_all_sizes_are_drawn():
    found = [draw(number, seed=0) for number in range(2 * len(FAMILIES))]
    assert Counter(each.family for each in found) == dict.fromkeys(FAMILIES, 2)
    assert {each.fleet for each in found} == set(FLEETS)
    some = [draw(number, seed=0, families=["dip", "cut"]).family for number in range(4)]
    assert some == ["dip", "cut", "dip", "cut"]


def test_batches_have_no_families_that_change_traffic():
    assert set(FAMILIES) - set(families_of("batch")) == {
        "spike",
        "herd",
        "ramp",
        "sustained_overload",
        "burst",
    }
    with pytest.raises(
        ConfigurationError, match="no family of batches is named 'herd'; families: dip"
    ):
        draw(0, seed=0, families=["herd"], preset="batch")


@table_test("preset", PRESETS)
def test_the_same_seed_and_number_give_the_same_storm(preset):
    numbers = range(40)
    first = [draw(number, seed=3, preset=preset) for number in numbers]
    assert [draw(number, seed=3, preset=preset) for number in numbers] == first
    other = [draw(number, seed=4, preset=preset) for number in numbers]
    assert all(
        one.scenario.provider != two.scenario.provider
        for one, two in zip(first, other, strict=True)
    )


@table_test(
    ("preset", "family"), [(preset, family) for preset in PRESETS for family in families_of(preset)]
)
@settings(max_examples=8, deadline=None)
@given(number=st.integers(0, 10**9), seed=st.integers(0, 2**70))
@example(number=182014, seed=2**64 - 1)  # the second of two faults began while the first lasted
def test_a_random_storm_is_equal_after_a_write_and_a_read(preset, family, number, seed):
    scenario = draw(number, seed=seed, families=[family], preset=preset).scenario
    assert parse(dump(scenario)) == scenario


@table_test("name", builtin_names())
def test_a_built_in_scenario_is_equal_after_a_write_and_a_read(name):
    scenario = load(name)
    assert parse(dump(scenario)) == scenario
