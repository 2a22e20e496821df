import pytest
from table_test import table_test

from stormbreak.llm.retry_after import parse_reset

NOW = 1795557600.0  # 2026-11-24T22:00:00Z


@table_test(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("12ms", 0.012),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3723.0),
        ("1d2h", 93_600.0),
        ("30", 30.0),
        ("8.64", 8.64),
        ("2026-11-24T22:00:30Z", 30.0),
        ("2026-11-24T23:00:30+01:00", 30.0),
        ("2026-11-24T21:59:59Z", -1.0),
        ("1795557630", 30.0),
        ("1795557630000", 30.0),
        ("", None),
        ("soon", None),
        ("1s2", None),
        ("inf", None),
        ("nan", None),
        ("-5", None),
    ],
)
def test_each_form_of_a_reset_is_parsed(text, seconds):
    assert parse_reset(text, NOW) == (seconds if seconds is None else pytest.approx(seconds))
