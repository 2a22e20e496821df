"""Measures of a storm without failures; tests change single fields."""

from stormbreak.storm.measures import Measures

MEASURES = Measures(
    goodput=0.98, trigger_goodput=0.9, success=1.0, recovery=2.0, p50=1.0, p99=1.0, added_wait_p50=0.0,
    added_wait_p99=0.0, makespan=59.5, makespan_99=59.0, amplification=1.0, attempts_per_sent_call=1.0, peak_attempts=40, shed=0,
    wasted=0.0, openings=0, calls=700,
)  # fmt: skip
