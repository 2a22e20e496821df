"""`stormbreak cost` against an independent calculation with fractions, without code of the package."""

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stormbreak.cli.main import main

PRICES = st.one_of(st.just("0"), st.decimals("0.0001", "999", places=4).map(str))
SHARES = st.decimals(0, 1, places=3).map(str)
OFFERS = st.fixed_dictionaries(
    {"input": PRICES, "cached_input": PRICES, "output": PRICES}, optional={"long_prompts": PRICES}
)
STEP = 1000  # tokens, from which a prompt is long
CASES = (
    ("as given", 1, 1, 1),
    ("current price +20%", Fraction(6, 5), 1, 1),
    ("current price -20%", Fraction(4, 5), 1, 1),
    ("candidate price +20%", 1, Fraction(6, 5), 1),
    ("candidate price -20%", 1, Fraction(4, 5), 1),
    ("volume +50%", 1, 1, Fraction(3, 2)),
    ("volume -50%", 1, 1, Fraction(1, 2)),
)


def in_toml(name, offer):
    keys = {key: price for key, price in offer.items() if key != "long_prompts"}
    if long := offer.get("long_prompts"):
        keys["long_prompts"] = f"[{{ above = {STEP}, input = {long} }}]"
    rest = "\n".join(f"{key} = {value}" for key, value in keys.items())
    return f"[[prices]]\nprovider = '{name}'\nmodel = 'm'\n{rest}\n"


def expected_cost(offer, tokens, share, cached, prompt):
    fresh = offer.get("long_prompts", offer["input"]) if prompt > STEP else offer["input"]
    read = tokens * Fraction(share) * Fraction(cached)
    other = tokens * Fraction(share) - read
    out = tokens - read - other
    cost = read * Fraction(offer["cached_input"]) + other * Fraction(fresh)
    return (cost + out * Fraction(offer["output"])) / 1_000_000


def same(shown, expected):
    if shown is None or expected is None:
        return shown is expected
    return abs(Fraction(shown) - expected) <= Fraction(1, 1_000_000) + abs(expected) / 10**20


@pytest.fixture
def document(capsys):
    def call(*argv):
        assert main(["cost", *argv, "--json"]) == 0
        return json.loads(capsys.readouterr().out, parse_float=Decimal, parse_int=Decimal)

    return call


@given(
    now=OFFERS,
    then=OFFERS,
    tokens=st.integers(1, 10**13),
    share=SHARES,
    cached=SHARES,
    prompt=st.sampled_from([1, STEP, STEP + 1]),
    hours=st.sampled_from(["0", "40", "12.5"]),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_compare_and_roi_equal_an_independent_calculation(
    document, tmp_path, *, now, then, tokens, share, cached, prompt, hours
):
    path = tmp_path / "deal.toml"
    path.write_text(in_toml("now", now) + in_toml("then", then))
    kind = ["--input-share", share, "--cache-rate", cached, "--prompt-tokens", str(prompt)]
    argv = ["--prices", str(path), "--tokens", str(tokens), *kind]
    costs = [expected_cost(offer, tokens, share, cached, prompt) for offer in (now, then)]
    first, second = costs

    for row, cost in zip(document("compare", *argv)["rows"], costs, strict=True):
        assert same(row["monthly"], cost)
        assert same(row["yearly"], 12 * cost)
        assert same(row["saved_a_year"], 12 * (first - cost))
        assert same(row["savings_share"], (first - cost) / first if first else None)

    roi = document(
        "roi", *argv, "--current", "now/m", "--candidate", "then/m", "--migration-hours", hours
    )
    work = Fraction(hours) * 50
    for row, (name, dearer, other, more) in zip(roi["cases"], CASES, strict=True):
        saved = (first * dearer - second * other) * more
        assert row["case"] == name
        assert same(row["saved_a_month"], saved)
        if work:
            assert same(row["payback_months"], work / saved if saved > 0 else None)
            assert same(row["return_12_months"], (12 * saved - work) / work)
            least = tokens * more * work / (12 * saved) if saved > 0 else None
            assert same(row["break_even_tokens"], least)
