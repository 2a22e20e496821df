"""A spend limit is never exceeded: hundreds of concurrent calls in virtual time, with any outcome."""

import random
from decimal import Decimal
from functools import partial
from itertools import groupby

from hypothesis import given, settings
from hypothesis import strategies as st
from metering import prices, usage
from stage import OTHER, TARGET, policy

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import Backoff
from stormbreak.core.engine import Engine
from stormbreak.core.fallback_policy import Step
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.cost.meter import Meter
from stormbreak.cost.spend_gate import SpendAccounts
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.types import FALLBACK, Call, Outcome, Verdict

ELSEWHERE = Step(frozenset({Verdict.BROKEN, Verdict.SERVER_ERROR}), None, FALLBACK, ((OTHER, 1.0),))
MIDNIGHT = 1_790_035_180.0  # unix epoch seconds, 20 s before one (UTC)
FATES = ("answer", "answer", "silent", "lost", "refused", "never", "cut")


def price_of(provider, model):
    into, out, cached, written, hour = "1", "10", "0.1", "1.25", "2"
    if model == "small":
        into, out, cached, written, hour = "0.1", "1", "0.01", "0.125", "0.2"
    return prices(provider, model, into=into, out=out, cached=cached, written=written, hour=hour)


class Provider:
    """Bills every accepted attempt, whatever its outcome, up to its maximum usage.

    A greedy provider writes each prompt to a cache, and for an hour if the call allows it.
    """

    def __init__(self, timeline, chance, *, greedy):
        self.timeline = timeline
        self.chance = chance
        self.greedy = greedy
        self.billed = []  # time of the attempt, and the amount billed

    def send(self, bound, send, reply):
        fate = self.chance.choice(FATES)
        part = 1.0 if self.greedy else self.chance.random()
        into = int(part * bound.input_tokens)
        written = into if self.greedy else self.chance.randrange(into + 1)
        hour = written if bound.cache_write_1h_tokens else 0
        used = usage(into, int(part * bound.output_tokens), written=written, hour=hour)
        cost = price_of("", send.target.model).cost_of(used)
        self.billed.append((self.timeline.now, Decimal(0) if fate == "refused" else cost))
        if fate == "never":
            return
        at = self.timeline.now + self.chance.uniform(0.1, 8.0)
        self.timeline.at(at, partial(reply, outcome(fate, used)))
        return


def outcome(fate, used):
    return {
        "answer": Outcome(Verdict.OK, usage=used),
        "silent": Outcome(Verdict.OK),
        "lost": Outcome(Verdict.BROKEN, maybe_processed=True),
        "cut": Outcome(Verdict.RESET, maybe_processed=True, usage=used),
        "refused": Outcome(Verdict.SERVER_ERROR, status=500),
    }[fate]


def play(seed, *, usd, per=None, calls=300, greedy=True):
    """Start all calls within a few seconds, and cancel some; return provider, engine, meter and results."""
    chance, timeline = random.Random(seed), Timeline()
    provider = Provider(timeline, chance, greedy=greedy)
    rules = policy(
        spend=SpendPolicy(max_usd=usd, period=per),
        attempt_timeout=5.0,
        retry=RetryPolicy(max_attempts=4, backoff=Backoff(initial_delay=0.5, max_delay=4.0)),
        hedge=HedgePolicy(delay=3.0, percentile=None),
        limit=AutomaticLimit(),
    )
    engine, ended = Engine(rules, SpendAccounts(price_of, lambda: MIDNIGHT + timeline.now)), []
    meter = Meter(price_of)
    engine.listeners.append(meter)
    driver = VirtualDriver(engine, timeline, chance=chance.random)

    def start(number):
        into, out = chance.randrange(1, 20_000), chance.randrange(1, 5_000)
        hour = into if chance.random() < 0.3 else 0
        bound = usage(into, out, written=hour, hour=hour)
        call = Call(
            number,
            chance.choice((TARGET, OTHER)),
            bound=bound,
            tenant=chance.choice("ab"),
            deadline_at=timeline.now + chance.uniform(20.0, 90.0),
            fallbacks=(ELSEWHERE,),
        )
        cancel = driver.start(call, partial(provider.send, bound), ended.append)
        if chance.random() < 0.1:
            timeline.at(timeline.now + chance.uniform(0.0, 10.0), cancel)

    for number in range(calls):
        timeline.at(chance.uniform(0.0, 5.0), partial(start, number))
    timeline.run(200.0)
    return provider, engine, meter, ended


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), usd=st.floats(0.01, 24.0), greedy=st.booleans())
def test_the_bill_stays_within_the_limit_and_the_range_of_the_meter(seed, usd, greedy):
    provider, engine, meter, _ = play(seed, usd=usd, greedy=greedy)

    billed = sum((cost for _, cost in provider.billed), Decimal(0))
    (spend,) = engine.snapshot(200.0)["spend"]
    assert billed <= Decimal(spend["spent"]) <= Decimal(str(usd))
    assert Decimal(spend["reserved"]) == 0
    bill = meter.snapshot()
    assert bill.total.in_all.min_usd <= billed <= bill.total.in_all.max_usd
    assert not bill.under_way
    assert bill.total.in_all.max_usd == Decimal(spend["spent"])


@settings(max_examples=6)
@given(seed=st.integers(0, 10**6), usd=st.floats(0.5, 5.0))
def test_the_bill_of_each_period_stays_within_the_limit(seed, usd):
    provider, *_ = play(seed, usd=usd, per=20.0, calls=250)

    begins = []
    for at, _ in provider.billed:
        if not begins or at >= begins[-1] + 20.0:
            begins.append(at)

    def period(sent):
        return max(begin for begin in begins if begin <= sent[0])

    for _, sent in groupby(provider.billed, key=period):
        assert sum(cost for _, cost in sent) <= Decimal(str(usd))
    assert len(begins) > 1


@settings(max_examples=6)
@given(seed=st.integers(0, 10**6), usd=st.floats(0.5, 5.0))
def test_the_bill_of_each_calendar_day_stays_within_the_limit(seed, usd):
    """Midnight is 20 s after the first call."""
    provider, *_ = play(seed, usd=usd, per="day", calls=250)
    days = {}
    for at, cost in provider.billed:
        days.setdefault(at > 19.999, []).append(cost)
    assert len(days) == 2
    for sent in days.values():
        assert sum(sent) <= Decimal(str(usd))


def test_a_high_limit_rejects_no_call():
    *_, ended = play(7, usd=10_000.0)

    assert len(ended) > 264
    assert not [each for each in ended if each.stopped == "spend"]


def test_a_low_limit_is_used_almost_completely():
    provider, *_ = play(7, usd=5.0)

    billed = sum(cost for _, cost in provider.billed)
    assert Decimal("4.5") < billed <= 5
