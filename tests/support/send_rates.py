"""Send rates after some sends and refusals."""

from math import inf

from stage import THROTTLED

from stormbreak.core.gate import READY
from stormbreak.core.send_rate import AdaptiveSendRate


def send_rate(on_random=lambda _: None, *, answered_sent_at=lambda: -inf):
    return AdaptiveSendRate(answered_sent_at, on_random)


def rate_after(
    sent, refused, now=100.0, seconds=9.0, outcome=THROTTLED, answered_sent_at=lambda: -inf
):
    """A rate after `sent` sends in the last `seconds`, the last `refused` of which were refused."""
    rate = send_rate(answered_sent_at=answered_sent_at)
    if seconds == 9.0:
        rate.take(None, now - 10.0)  # busy for the whole window; this send is forgotten by now
    for number in range(sent):
        rate.take(None, now - seconds + seconds * number / sent)
    for _ in range(refused):
        rate.settle(None, outcome, now, 0.5)
    return rate


def leave_times(rate, since, until):
    """When waiting calls leave."""
    times, now = [], since
    while now < until:
        ready_at = rate.ready_at(None, now)
        if ready_at == READY:
            rate.take(None, now)
            times.append(now)
            assert len(times) < 10_000, "it holds no call"
        else:
            now = max(ready_at, now + 1e-6)
    return times
