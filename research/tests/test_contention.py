"""The contention of "Exponential Backoff And Jitter": our engine as the clients, beside the published model, rewritten."""

from pathlib import Path

import pytest

from published import bare_contention, contention
from published.means import apart
from published.study import contended
from stormbreak.core.backoff import Backoff

STRATEGIES = tuple(contention.STRATEGIES)
CERTAIN = ("none", "exponential")  # their delays are not random
RUNS = 12  # `make prove` runs the published 100
NEAR = 3.0  # standard errors


def both(strategy, clients, runs=RUNS):
    sides = contended(strategy, clients, runs)
    return zip(sides.ours, sides.bare, strict=True)


def test_the_published_models_share_no_code_with_our_engine():
    for module in ("bare", "bare_contention", "bare_retries", "bare_collapse"):
        source = Path(bare_contention.__file__).with_stem(module).read_text()
        assert "stormbreak" not in source


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_client_writes_once_after_four_trips(strategy):
    sides = contended(strategy, 1, RUNS)

    for calls, milliseconds in (sides.ours, sides.bare):
        assert calls == (1.0, 0.0)
        assert milliseconds.value == pytest.approx(40, abs=4)


@pytest.mark.parametrize("strategy", CERTAIN)
@pytest.mark.parametrize("clients", [10, 50])
def test_our_engine_equals_the_published_model_at_the_same_seed(strategy, clients):
    ours, bare = (side.run(strategy, clients, seed=1) for side in (contention, bare_contention))

    assert ours[0] == bare[0]
    assert ours[1] == pytest.approx(bare[1])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("clients", [10, 50])
def test_means_are_within_three_standard_errors(strategy, clients):
    for ours, bare in both(strategy, clients):
        assert apart(ours, bare) <= NEAR


@pytest.mark.parametrize(
    ("strategy", "wrong"),
    [
        ("full", Backoff(initial_delay=contention.BASE, max_delay=contention.CAP)),
        (
            "full",
            Backoff(
                kind="equal_jitter", initial_delay=2 * contention.BASE, max_delay=contention.CAP
            ),
        ),
        ("equal", Backoff(initial_delay=2 * contention.BASE, max_delay=contention.CAP)),
        (
            "decorrelated",
            Backoff(
                kind="decorrelated_jitter",
                initial_delay=contention.BASE,
                factor=2,
                max_delay=contention.CAP,
            ),
        ),
    ],
)
def test_a_wrong_backoff_is_noticed(monkeypatch, strategy, wrong):
    monkeypatch.setitem(contention.STRATEGIES, strategy, wrong)

    assert max(apart(ours, bare) for ours, bare in both(strategy, 50)) > NEAR


@pytest.mark.prove
@pytest.mark.parametrize("clients", contention.CLIENTS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_means_of_a_hundred_runs_are_within_three_standard_errors(strategy, clients):
    for ours, bare in both(strategy, clients, 100):
        assert apart(ours, bare) <= NEAR


@pytest.mark.prove
def test_our_cap_takes_as_many_calls_and_less_time():
    (calls, milliseconds), (published_calls, published) = contended(contention.OURS, 200, 100)

    assert apart(calls, published_calls) <= NEAR
    assert milliseconds.value < 0.95 * published.value


@pytest.mark.parametrize("clients", [10, 50])
def test_our_decorrelated_jitter_below_the_cap_is_the_published_one(monkeypatch, clients):
    monkeypatch.setitem(
        contention.MORE,
        contention.OURS,
        Backoff(kind="decorrelated_jitter", initial_delay=contention.BASE, max_delay=1e6),
    )
    monkeypatch.setattr(bare_contention, "CAP", 1e9)

    for ours, bare in both(contention.OURS, clients):
        assert apart(ours, bare) <= NEAR


@pytest.fixture(scope="module")
def hundred():
    """Calls and milliseconds of 100 clients, by strategy."""
    ours = {name: contended(name, 100, 100).ours for name in STRATEGIES}
    return {name: (calls.value, ms.value) for name, (calls, ms) in ours.items()}


@pytest.mark.prove
def test_the_published_ratios_of_a_hundred_clients_hold(hundred):
    calls = {name: each[0] for name, each in hundred.items()}
    milliseconds = {name: each[1] for name, each in hundred.items()}

    assert calls["none"] == pytest.approx(100**2 / 4, rel=0.05)
    assert calls["none"] == max(calls.values())
    assert calls["none"] / calls["full"] == pytest.approx(3.0, abs=0.1)
    assert calls["full"] == min(calls.values())
    assert milliseconds["exponential"] == max(milliseconds.values())
    assert calls["exponential"] / calls["full"] > 2
    assert calls["full"] < calls["equal"]
    assert milliseconds["full"] < milliseconds["equal"]
