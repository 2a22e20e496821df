"""Rate-limit headers of every provider, and of none."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.llm.rate_limit_headers import parse_rate_limits
from stormbreak.types import RateLimits, RateLimitStatus

NOW = 1795557600.0  # 2026-11-24T22:00:00Z
SAMPLES = json.loads((Path(__file__).parent / "data" / "ratelimit_headers.json").read_text())


def read(**headers):
    return parse_rate_limits({name.replace("_", "-"): text for name, text in headers.items()}, NOW)


@table_test("case", SAMPLES)
def test_each_sample_is_parsed(case):
    headers = {name.lower(): value for name, value in case["headers"].items()}
    expected = case["expect"]["limits"]
    read = parse_rate_limits(headers, NOW)

    requests = expected.get("requests") or expected.get("default")
    assert (read is None) == (not expected)
    for status, wanted in (
        (read and read.requests, requests),
        (read and read.tokens, expected.get("tokens")),
    ):
        shown = status and {
            "limit": status.limit,
            "remaining": status.remaining,
            "reset_s": status.reset,
        }
        assert shown == (wanted and {key: wanted[key] for key in ("limit", "remaining", "reset_s")})


def test_an_unknown_limit_of_azure_is_ignored():
    assert read(
        x_ratelimit_limit_requests="250",
        x_ratelimit_remaining_requests="249",
        x_ratelimit_reset_requests="1",
        x_ratelimit_limit_tokens="-1",
        x_ratelimit_remaining_tokens="0",
    ) == RateLimits(requests=RateLimitStatus(250, 249, 1.0))


@table_test("remaining", ["-1", "", "many", "1e400", "nan", "0x10", "1,000", "٣"])
def test_an_invalid_remainder_is_ignored(remaining):
    assert read(x_ratelimit_limit_tokens="100", x_ratelimit_remaining_tokens=remaining) is None


@table_test("limit", ["0", "-1", "-5"])
def test_an_invalid_limit_makes_the_header_unknown(limit):
    limits = read(
        x_ratelimit_limit_requests=limit,
        x_ratelimit_remaining_requests="0",
        x_ratelimit_reset_requests="60s",
    )
    assert limits is None


def test_mistral_names_its_window():
    assert read(
        x_ratelimit_limit_tokens_minute="5000000",
        x_ratelimit_remaining_tokens_minute="4999911",
        x_ratelimit_tokens_query_cost="52",
        x_ratelimit_limit_req_minute="720",
        x_ratelimit_remaining_req_minute="717",
    ) == RateLimits(
        requests=RateLimitStatus(720, 717, None, 60.0),
        tokens=RateLimitStatus(5e6, 4999911, None, 60.0),
    )


def test_the_narrower_of_a_minute_and_a_day_counts():
    limits = read(
        x_ratelimit_limit_requests_day="14400",
        x_ratelimit_remaining_requests_day="100",
        x_ratelimit_reset_requests_day="33011.4",
        x_ratelimit_limit_tokens_minute="60000",
        x_ratelimit_remaining_tokens_minute="59000",
        x_ratelimit_reset_tokens_minute="11.38",
    )
    assert limits == RateLimits(
        requests=RateLimitStatus(14400, 100, 33011.4, 86_400.0),
        tokens=RateLimitStatus(60000, 59000, 11.38, 60.0),
    )


def test_the_narrower_of_input_and_output_limits_of_anthropic_counts():
    limits = read(
        anthropic_ratelimit_input_tokens_limit="80000",
        anthropic_ratelimit_input_tokens_remaining="70000",
        anthropic_ratelimit_input_tokens_reset="2026-11-24T22:00:07Z",
        anthropic_ratelimit_output_tokens_limit="16000",
        anthropic_ratelimit_output_tokens_remaining="1600",
        anthropic_ratelimit_output_tokens_reset="2026-11-24T22:00:54Z",
    )
    assert limits == RateLimits(tokens=RateLimitStatus(16000, 1600, 54.0))


def anthropic(**remaining):
    """All three limits, with `remaining` of each."""
    limits = {"tokens": 96_000, "input_tokens": 80_000, "output_tokens": 16_000}
    headers = {}
    for name, limit in limits.items():
        headers[f"anthropic_ratelimit_{name}_limit"] = str(limit)
        headers[f"anthropic_ratelimit_{name}_remaining"] = str(remaining[name])
        headers[f"anthropic_ratelimit_{name}_reset"] = "2026-11-24T22:00:30Z"
    return read(**headers).tokens


def test_a_used_up_part_counts_before_the_sum():
    """A bug: Anthropic refused for input tokens while the sum had some left, and calls continued into 429s."""
    assert anthropic(tokens=12_000, input_tokens=0, output_tokens=12_000) == RateLimitStatus(
        80_000, 0, 30.0
    )
    assert anthropic(tokens=12_000, input_tokens=12_000, output_tokens=0) == RateLimitStatus(
        16_000, 0, 30.0
    )


def test_the_tighter_of_sum_and_input_counts():
    assert anthropic(tokens=50_000, input_tokens=8_000, output_tokens=9_000) == RateLimitStatus(
        80_000, 8_000, 30.0
    )
    assert anthropic(tokens=9_600, input_tokens=70_000, output_tokens=9_000) == RateLimitStatus(
        96_000, 9_600, 30.0
    )


def test_a_low_output_limit_does_not_hold_back_input():
    assert anthropic(tokens=60_000, input_tokens=59_000, output_tokens=1_000) == RateLimitStatus(
        96_000, 60_000, 30.0
    )


@table_test("reset", ["1795557630000", "1795557630", "30"])
def test_openrouter_writes_a_point_in_time(reset):
    limits = read(x_ratelimit_limit="20", x_ratelimit_remaining="0", x_ratelimit_reset=reset)
    assert limits == RateLimits(requests=RateLimitStatus(20, 0, 30.0, flows=False))


def test_the_narrower_of_several_draft_policies_counts():
    limits = read(
        ratelimit_policy='"burst";q=100;w=10, "daily";q=1000;w=86400',
        ratelimit='"burst";r=50;t=7, "daily";r=30;t=3600',
    )
    assert limits == RateLimits(requests=RateLimitStatus(1000, 30, 3600.0, 86_400.0, flows=False))


names = st.sampled_from(
    [
        f"{start}{part}{end}"
        for start in ("x-ratelimit-", "anthropic-ratelimit-", "ratelimit-", "")
        for part in ("limit", "remaining", "reset", "policy", "ratelimit")
        for end in ("", "-requests", "-tokens", "-tokens-minute", "-requests-day", "-req-minute")
    ]
    + ["date", "anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"]
)
values = st.one_of(
    st.text(max_size=40),
    st.from_regex(r'\A"?[a-z]*"?(;[rtqw]=-?[0-9]{0,20}){0,4}\Z'),
    st.from_regex(r"\A[-+]?[0-9]{0,400}(\.[0-9]{0,20})?(e[+-]?[0-9]{1,4})?(ms|s|m|h|d)?\Z"),
)


@given(st.dictionaries(names, values), st.floats(0, 1e11))
def test_no_header_raises(headers, now):
    limits = parse_rate_limits(headers, now)
    for one in limits or ():
        if one is not None:
            assert one.remaining >= 0
            assert one.limit is None or one.limit > 0
            assert one.reset is None or 0 <= one.reset < 1e12


def test_the_narrower_of_two_token_counts_counts():
    headers = {
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "900",
        "x-ratelimit-reset-tokens": "6s",
        "x-ratelimit-limit-tokens_usage_based": "1000",
        "x-ratelimit-remaining-tokens_usage_based": "100",
        "x-ratelimit-reset-tokens_usage_based": "54s",
    }
    assert parse_rate_limits(headers, NOW) == RateLimits(tokens=RateLimitStatus(1000, 100, 54.0))
