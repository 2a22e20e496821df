"""What later refusals show: an exhausted limit, or random refusals."""

from itertools import pairwise
from math import inf

import pytest
from send_rates import rate_after, send_rate
from stage import OK, THROTTLED
from table_test import table_test

from stormbreak.core.gate import READY


def test_an_exhausted_limit_keeps_the_rate_for_two_minutes():
    rate = rate_after(200, 20)
    exhaust(rate, 150.0)

    assert rate.in_force(150.0 + 119.9)
    assert not rate.in_force(150.0 + 120.0)


def exhaust(rate, now):
    """Nothing was served for ten seconds; this is the second change, two seconds after the first."""
    for _ in range(20):
        rate.take(None, now - 6.0)
    for refused_at in (*[now - 2.1] * 200, now):
        rate.settle(None, THROTTLED, refused_at, 0.5)


def refused(rate, since, until):
    """When waiting calls leave, if all are refused."""
    times, now = [], since
    while (now := max(now, rate.ready_at(None, now))) < until:
        rate.take(None, now)
        rate.settle(None, THROTTLED, now, 0.5)
        times.append(now)
        assert len(times) < 1_000, "it holds no call"
    return times


def test_an_exhausted_limit_is_probed_until_an_answer_comes():
    answered = [-inf]
    rate = rate_after(200, 20, answered_sent_at=lambda: answered[0])  # 18 a second
    exhaust(rate, 104.2)
    assert rate.rate_at(104.2) == 1.0
    assert 9 <= len(refused(rate, 104.2, 114.2)) <= 12
    answered[0] = 110.0

    assert rate.rate_at(114.2) >= 18.0


def test_a_refused_probe_brings_no_other_forward():
    """A bug: each change, every two seconds, let the next leave at the previous rate."""
    rate = rate_after(200, 20)
    exhaust(rate, 104.2)
    times = refused(rate, 104.2, 130.0)

    assert min(after - before for before, after in pairwise(times)) >= 0.99


def test_answers_to_earlier_attempts_do_not_end_an_exhausted_limit():
    """A bug: answers take up to minutes; each ended it, and the next change halved the floor."""
    answered = [-inf]
    rate = rate_after(200, 20, answered_sent_at=lambda: answered[0])
    for now in (104.2, 106.4, 108.6):
        exhaust(rate, now)
        answered[0] = now - 10.0
        assert rate.rate_at(now) == 1.0
    answered[0] = 109.0

    assert rate.rate_at(109.0) == pytest.approx(18.0, rel=0.05)


def test_an_exhausted_limit_ends_when_no_more_is_refused():
    """A bug: answers take up to minutes, or are errors; one probe a second left for two minutes."""
    rate = rate_after(200, 20)
    exhaust(rate, 104.2)
    refused(rate, 104.2, 110.0)
    assert rate.rate_at(112.0) == 1.0
    assert rate.rate_at(116.0) > 18.0
    rate.settle(None, THROTTLED, 120.0, 0.5)  # one stray refusal

    assert rate.rate_at(120.0) > 18.0


def test_a_process_without_any_answer_probes_no_slower():
    """A bug: a process that began in an outage has the lowest floor; a probe a minute left."""
    rate = send_rate()
    for tenth in range(73):  # rates after 5 and 7 seconds
        rate.take(None, tenth / 10)
        rate.settle(None, THROTTLED, tenth / 10, 0.5)

    assert rate.rate_at(7.2) == pytest.approx(2.5 / 3, rel=0.1)


def test_slow_probes_are_a_third_of_the_rate():
    rate = rate_after(20, 2)  # 1.8 a second
    exhaust(rate, 104.2)

    assert rate.rate_at(104.2) == pytest.approx(1.8 / 3)


def test_a_limit_exhausted_again_within_half_a_minute_halves_the_floor():
    """A bucket that refused requests also drain would be exhausted each time."""
    answered = [-inf]
    rate = rate_after(200, 20, answered_sent_at=lambda: answered[0])
    for now, floor in ((104.2, 18.0), (120.0, 9.0), (149.0, 4.5), (180.0, 4.5)):
        exhaust(rate, now)
        assert rate.rate_at(now) == 1.0
        answered[0] = now
        assert rate.rate_at(now) == pytest.approx(floor)


def test_a_few_refusals_do_not_show_an_exhausted_limit():
    rate = rate_after(40, 4)  # 3.6 a second
    for refused_at in [112.0] * 19:
        rate.take(None, 111.0)
        rate.settle(None, THROTTLED, refused_at, 0.5)

    assert rate.rate_at(112.0) == pytest.approx(3.6)


def test_a_trial_halves_the_floor_at_most():
    rate = rate_after(200, 20)
    for second in range(10):
        rate.take(None, 145.0 + second)
    for _ in range(5):  # the first trial has ended without a result
        rate.settle(None, THROTTLED, 154.5, 0.5)

    assert rate.rate_at(154.5) == 9.0


def of_a_second(rate, second, outcomes):
    """Send one after the other within `second` as the rate allows; return how many leave."""
    left = 0
    for number, outcome in enumerate(outcomes):
        now = second + number / len(outcomes)
        if rate.ready_at(None, now) == READY:
            rate.take(None, now)
            rate.settle(None, outcome, now + 0.02, 0.5)
            left += 1
    return left


def at_random(number):
    """Three in ten are always refused."""
    return THROTTLED if number % 10 in (2, 5, 9) else OK


def test_random_refusals_slow_sending_only_for_a_while():
    found = []
    rate, calls = send_rate(found.append), iter(range(10**6))
    sent = [
        of_a_second(rate, second, [at_random(next(calls)) for _ in range(20)])
        for second in range(120)
    ]

    assert found
    assert found[0] < 40.0
    assert rate.is_random(120.0)
    assert not rate.in_force(120.0)
    assert min(sent[45:]) == 20
    assert min(sent) >= 14 - 4  # what was served, also during the trial


def test_the_rate_is_constant_during_a_trial_and_grows_after_it():
    rate = send_rate()
    for second in range(6):
        of_a_second(rate, second, [at_random(number) for number in range(20)])
    learned = rate.rate_at(6.0)

    assert rate.rate_at(5.12 + 15.0) == learned  # the first rate was set at 5.12
    assert rate.rate_at(5.12 + 16.0) == pytest.approx(1.02**1.1 * learned)


@table_test("refused_at", [[2.0, 2.0, 2.0, 4.0, 5.0], [2.0, 2.0, 2.0, 2.0, 5.0]])
def test_a_trial_begins_however_refusals_are_spread_over_the_seconds(refused_at):
    rate = send_rate()
    for number in range(11):
        now = number / 2
        rate.take(None, now)
        for _ in range(refused_at.count(now)):
            rate.settle(None, THROTTLED, now, 0.5)

    assert rate.in_force(5.0)
    assert rate.rate_at(15.0) == rate.rate_at(5.0)  # it does not grow


def test_a_rate_limit_is_not_taken_for_random_refusals():
    rate, found = send_rate(lambda now: pytest.fail("no luck")), []
    for second in range(300):
        room = 10
        for number in range(40):
            now = second + number / 40
            if rate.ready_at(None, now) == READY:
                rate.take(None, now)
                rate.settle(None, OK if room > 0 else THROTTLED, now + 0.02, 0.5)
                room -= 1
        found.append(10 - room)

    assert max(found[20:]) <= 16
    assert not rate.is_random(300.0)


def test_random_refusals_that_become_an_outage_set_a_rate_again():
    rate, calls = send_rate(), iter(range(10**6))
    for second in range(60):
        of_a_second(rate, second, [at_random(next(calls)) for _ in range(20)])
    assert rate.is_random(60.0)
    for second in range(60, 75):
        of_a_second(rate, second, [THROTTLED] * 20)

    assert not rate.is_random(75.0)
    assert rate.in_force(75.0)
