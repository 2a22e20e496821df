"""The reasons not to switch, derived from the figures."""

from dataclasses import replace
from datetime import date
from decimal import Decimal

from stormbreak.cost.money import USD, Currency
from stormbreak.cost.roi import Case, Migration, reasons
from stormbreak.cost.token_prices import Prices, Rate, Rates, Source

DAY = date(2026, 11, 26)


def prices(provider, *, maker="openai/m", source=None):
    rates = Rates(input=Rate(Decimal(1)))
    source = source or Source(name="market", as_of=DAY)
    return Prices(
        provider=provider, model="m", listed_as="m", standard=rates, source=source, maker=maker
    )


def move(now=3000, then=400, **more):
    given = {"current": prices("openai"), "candidate": prices("acme"), "on": DAY, **more}
    amounts = {"current": Decimal(now), "candidate": Decimal(then), "migration": Decimal(2000)}
    return Migration(case=Case(tokens=50_000_000, **amounts), **given)


def advice(of, currency=USD):
    return [f"{'now: ' if it.holds else ''}{it.text}" for it in reasons(of, currency)]


def test_a_migration_that_saves_lists_the_conditions_against_it():
    assert advice(move()) == [
        "Below 3.21M tokens a month, 12 months do not pay for the migration.",
        "Once the new price has risen by 608.3 %, twelve months save nothing.",
    ]


def test_a_migration_without_savings_is_the_first_reason():
    assert advice(move(then=3000)) == ["now: It saves nothing."]
    assert advice(move(then=3200)) == ["now: It costs 200.00 USD a month more."]
    dong = Currency("VND", Decimal(26_000))
    assert advice(move(then=3200), dong) == ["now: It costs 5,200,000 VND a month more."]


def test_too_little_traffic_does_not_pay_for_the_migration():
    assert advice(move(now=110, then=10)) == [
        "now: Below 83.4M tokens a month, 12 months do not pay for the migration."
    ]


def test_a_claimed_price_is_compared_with_the_list_price():
    first, *others = advice(move(listed_current=Decimal(190), listed_candidate=Decimal(190)))
    assert not any("at the list price is" in other for other in others)  # the same maker
    assert first == (
        "now: At today's list price, openai/m costs 190.00 USD a month, not 3,000.00 USD:"
        " against that the move costs 210.00 USD a month more."
    )
    better = advice(move(listed_current=Decimal(1000)))[0]
    assert better.startswith("At today's list price")  # a condition, not a reason now
    assert better.endswith("the move saves 600.00 USD a month.")
    assert advice(move(listed_current=Decimal(400)))[0].endswith(
        "against that the move saves nothing."
    )
    # Almost the same price is no reason.
    assert len(advice(move(listed_current=Decimal(2990)))) == len(advice(move()))


def test_a_reseller_above_the_price_of_the_maker_is_a_reason():
    texts = advice(move(listed_candidate=Decimal(300)))
    assert (
        texts[0]
        == "now: openai/m at the list price is 300.00 USD a month: 100.00 USD less than acme/m."
    )
    other = prices("acme", maker="google/g")
    both = advice(move(candidate=other, listed_current=Decimal(190), listed_candidate=Decimal(48)))
    assert "google/g at the list price is 48.00 USD" in both[1]


def test_a_current_list_price_is_no_reason_against_the_candidate():
    texts = advice(move(now=300, then=400, listed_candidate=Decimal(300)))
    assert texts == ["now: It costs 100.00 USD a month more."]


def test_traffic_at_the_break_even_pays_for_the_migration():
    amounts = {"current": Decimal(300), "candidate": Decimal(200), "migration": Decimal(1200)}
    just = replace(move(), case=Case(tokens=50_000_000, **amounts))
    text = "Below 50M tokens a month, 12 months do not pay for the migration."
    assert advice(just) == [text]
    less = replace(just, case=just.case.scaled(volume=Decimal("0.999")))
    assert advice(less) == [f"now: {text}"]


def test_downtime_is_no_reason_when_nothing_is_saved():
    assert len(advice(move(then=3200, per_minute=Decimal(1)))) == 1


def test_the_downtime_that_costs_the_savings_is_a_reason():
    texts = advice(move(per_minute=Decimal(180_000) / 23))
    assert "0.33 minutes more downtime a month, at 7,826.09 USD each, cost what it saves." in texts


def test_old_prices_are_a_reason_with_their_age():
    old = Source(name="article-2025", as_of=date(2025, 11, 11), claim=True)
    texts = advice(move(current=prices("openai", source=old), candidate=prices("acme", source=old)))
    assert texts[-1] == (
        "now: The prices of article-2025 are 380 days old: ask again before you move."
    )
