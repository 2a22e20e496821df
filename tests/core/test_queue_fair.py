from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.core.queue_order import FairShares


def turns(shares, count):
    served = []
    for _ in range(count):
        served.append(shares.next())
        shares.served()
    return "".join(served)


def waiting(tenants, **weights):
    shares = FairShares(weights)
    for tenant in tenants:
        shares.enter(tenant)
    return shares


@table_test(
    ("weights", "served"),
    [
        ({}, "abcabcabc"),
        ({"a": 2}, "abcaabcaa"),
        ({"c": 0.5}, "abcababca"),
        ({"a": 3, "b": 3}, "ababcabab"),
    ],
)
def test_turns_go_round_by_weight(weights, served):
    assert served == turns(waiting("abc", **weights), 9)


def test_an_idle_tenant_comes_back_without_credit():
    shares = waiting("ab")
    turns(shares, 2)
    shares.leave("b")
    assert turns(shares, 10) == "a" * 10
    shares.enter("b")
    assert turns(shares, 6) == "ababab"


def test_a_tenant_that_leaves_and_returns_gains_nothing():
    """New names with one call each: the old tenant keeps its half."""
    shares = waiting("a")
    served = []
    for n in range(20):
        if len(shares._valid_order) == 1:
            shares.enter(f"new{n}")
        served += [shares.next()]
        shares.served()
        if served[-1] != "a":
            shares.leave(served[-1])
    assert served.count("a") == 10


def test_giving_up_a_turn_costs_and_gains_nothing():
    shares = waiting("ab")
    for _ in range(5):
        shares.leave("a")
        shares.enter("a")
    assert turns(shares, 4) == "baba"


def test_tenants_without_calls_are_forgotten():
    shares = waiting("a")
    for n in range(1000):
        shares.enter(f"t{n}")
        shares.leave(f"t{n}")
    assert len(shares._turns) <= 70
    assert (list(shares._valid_order), shares.total) == (["a"], 1.0)
    shares.leave("a")
    assert (shares._turns, shares.total) == ([], 0.0)


def test_rounding_leaves_no_weight_behind():
    shares = waiting("abc", a=0.1, b=0.2, c=0.3)
    for tenant in "abc":
        shares.leave(tenant)

    assert shares.total == 0.0


def test_turns_keep_their_order_after_a_cleanup():
    weights = {f"t{n}": 1 / (1 + n * 37 % 211) for n in range(200)}
    shares = waiting(weights, **weights)
    for n in range(180):
        shares.leave(f"t{n}")
    assert len(shares._turns) < 200
    served = []
    for _ in range(20):
        served.append(shares.next())
        shares.leave(served[-1])

    assert served == sorted(served, key=weights.get, reverse=True)


@given(
    weights=st.dictionaries(st.sampled_from("abcd"), st.floats(0.1, 10.0), min_size=2, max_size=4),
    rounds=st.integers(1, 200),
    stays_until=st.integers(0, 200),
)
def test_tenants_that_wait_never_differ_by_more_than_a_call_each(weights, rounds, stays_until):
    """Golestani's bound, at any time while both wait."""
    shares = FairShares(weights)
    names = sorted(weights)
    for tenant in names[1:]:
        shares.enter(tenant)
    counts = dict.fromkeys(names, 0)
    history = []
    for n in range(rounds):
        if n == min(stays_until, rounds - 1):  # the first enters late
            shares.enter(names[0])
            history.clear()
        counts[shares.next()] += 1
        shares.served()
        history.append(dict(counts))
    both = names if rounds > stays_until else names[1:]
    for one, other in pairwise(both):
        apart = [row[one] / weights[one] - row[other] / weights[other] for row in history]
        bound = 1 / weights[one] + 1 / weights[other]
        assert max(apart) - min(apart) <= bound + 1e-6
