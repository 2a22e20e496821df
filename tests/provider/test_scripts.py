"""Waits in headers: rounding never shortens them."""

from email.utils import parsedate_to_datetime

from hypothesis import given
from hypothesis import strategies as st

from stormbreak.provider.fault_kinds import WaitForm
from stormbreak.provider.throttle_headers import retry_after_headers

WAITS = st.floats(0, 1000)
NOW = 1_700_000_000.25


@given(st.sampled_from([WaitForm.SECONDS, WaitForm.MS, WaitForm.DATE]), WAITS)
def test_a_promised_wait_exceeds_the_configured_one_by_at_most_a_second(form, wait):
    _, promise = retry_after_headers(form, wait, NOW)
    assert wait - 1e-6 <= promise <= wait + 1


@given(WAITS)
def test_the_header_holds_the_promised_wait(wait):
    [(name, seconds)], promise = retry_after_headers(WaitForm.SECONDS, wait, NOW)
    assert (name, float(seconds)) == ("retry-after", promise)
    [(name, milliseconds)], promise = retry_after_headers(WaitForm.MS, wait, NOW)
    assert (name, int(milliseconds) / 1000) == ("retry-after-ms", promise)
    [(name, date)], promise = retry_after_headers(WaitForm.DATE, wait, NOW)
    assert (name, parsedate_to_datetime(date).timestamp()) == ("retry-after", NOW + promise)


def test_a_bare_refusal_has_no_wait_header():
    assert retry_after_headers(WaitForm.BARE, 3.0, NOW) == ((), None)
    assert retry_after_headers(WaitForm.SECONDS, None, NOW) == ((), None)
