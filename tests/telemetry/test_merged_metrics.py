"""The metrics of several processes on one page."""

from prometheus_client.parser import text_string_to_metric_families

from stormbreak.telemetry.merged_metrics import counts_of, merged_metrics

ONE = b"""# HELP stormbreak_calls_total Calls.
# TYPE stormbreak_calls_total counter
stormbreak_calls_total{target="a b",verdict="ok"} 3.0
# HELP stormbreak_calls_created Calls.
# TYPE stormbreak_calls_created gauge
stormbreak_calls_created{target="a b",verdict="ok"} 1.7e+09
# HELP stormbreak_retry_budget Budget.
# TYPE stormbreak_retry_budget gauge
stormbreak_retry_budget{target="a b"} 2.0
# HELP own_key_limit_usd Limit.
# TYPE own_key_limit_usd gauge
own_key_limit_usd{key="x"} 5
"""
TWO = ONE.replace(b"3.0", b"4.0").replace(b"1.7e", b"1.8e").replace(b" 2.0", b" 0.5") + (
    b'# HELP stormbreak_calls_total Calls.\nstormbreak_calls_total{target="c",verdict="ok"} 1.0\n'
)


def samples(text):
    return {
        (each.name, *each.labels.values()): each.value
        for family in text_string_to_metric_families(text.decode())
        for each in family.samples
    }


def test_counters_are_summed_and_gauges_follow_their_rules():
    merged = merged_metrics([ONE, TWO], {"key_limit_usd": "max"})
    assert samples(merged) == {
        ("stormbreak_calls_total", "a b", "ok"): 7,
        ("stormbreak_calls_total", "c", "ok"): 1,
        ("stormbreak_calls_created", "a b", "ok"): 1.7e9,
        ("stormbreak_retry_budget", "a b"): 0.5,
        ("own_key_limit_usd", "x"): 5,
    }
    assert merged.count(b"# TYPE stormbreak_calls_total") == 1


def test_counts_of_an_ended_process_have_no_gauges():
    left = counts_of(ONE)
    assert samples(left) == {("stormbreak_calls_total", "a b", "ok"): 3}
    assert samples(merged_metrics([TWO, left]))["stormbreak_calls_total", "a b", "ok"] == 7
