"""A batch in bad luck and in an outage, in virtual time; test_prove_bad_luck.py does the same on real sockets.

It is compared with the usual loop with full jitter, base 1 s, cap 60 s: the baseline `loop_full_jitter`.
A loop with short backoff (0.5 s, 8 s) is two to four times as fast where all failures are random.
"""

from dataclasses import replace
from functools import cache

import pytest
from bad_luck import LUCK, NARROW, ROWS, TIMEOUT, WIDTH, outage

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.presets import BATCH
from stormbreak.events import Returned, Sent
from stormbreak.provider.scenario import Burst, Load
from stormbreak.provider.scenario_file import parse
from stormbreak.storm import simulate
from stormbreak.storm.policies import BASELINES
from stormbreak.types import Verdict

SEEDS = range(3)


def of_rows(scenario, count):
    """The scenario with a batch of `count` rows."""
    load = Load(
        bursts=(Burst(at=0.0, calls=count),), deadline=800.0, timeout=TIMEOUT, preset="batch"
    )
    return replace(parse(scenario), duration=900.0, load=load)


def wide(width):
    return replace(BATCH, limit=FixedLimit(max_in_flight=width))


@cache
def plain_loop():
    """A row is sent until it is answered, without respect for Retry-After, as in jitter_loop.py."""
    usual = BASELINES["loop_full_jitter"]
    retry = replace(usual.policy.retry, max_attempts=1_000)
    return replace(usual, ignores_retry_after=True, policy=replace(usual.policy, retry=retry))


@cache
def seconds(policy, seed):
    measures = simulate(of_rows(LUCK, ROWS), policy, seed=seed).measures
    return float("inf") if measures.makespan_99 is None else measures.makespan_99


@pytest.mark.parametrize("policy", [BATCH, wide(WIDTH)], ids=["as it comes", str(WIDTH)])
def test_a_batch_in_bad_luck_is_as_fast_as_a_plain_loop(policy):
    ratios = [seconds(policy, seed) / seconds(plain_loop(), seed) for seed in SEEDS]
    assert max(ratios) <= 1.0


def outlived(calm, seed):
    """The number of requests sent into an outage, and the seconds from its end to the first answer."""
    events = []
    scenario, over = outage(calm)
    simulate(of_rows(scenario, 2_000), wide(NARROW), seed=seed, listener=events.append)
    sent = sum(isinstance(event, Sent) and calm <= event.at < over for event in events)
    answered = (it.at for it in events if isinstance(it, Returned) and it.verdict is Verdict.OK)
    return sent, min(at for at in answered if at > over) - over


@pytest.mark.parametrize("calm", [0.0, 3.0], ids=["from the start", "after three seconds"])
def test_few_requests_are_sent_into_an_outage_and_its_end_is_found_at_once(calm):
    outages = [outlived(calm, seed) for seed in SEEDS]
    assert max(sent for sent, _ in outages) <= 60
    assert max(after for _, after in outages) <= 2.0
