"""The JSON of a row is parsed once to check INPUT, and once before the row is sent."""

import sys
from collections import Counter

import msgspec
from batches import chat_rows

from stormbreak.batch.input import row
from stormbreak.http.request import RequestFields

ROWS = 7


def test_a_row_is_parsed_once_before_it_is_sent(run_rows, stormbreak_provider):
    provider = stormbreak_provider("calm", speed=50)
    decoded = Counter()

    def count(_, event, function):
        if event == "c_call" and isinstance(decoder := function.__self__, msgspec.json.Decoder):
            decoded[decoder.type] += 1

    sys.setprofile(count)
    try:
        summary = run_rows(chat_rows(ROWS), provider)
    finally:
        sys.setprofile(None)

    assert summary.complete
    assert decoded[row._Line] == 2 * ROWS  # the line; its body stays raw
    assert decoded[row._ChatBody] == 2 * ROWS  # the body
    assert decoded[RequestFields] == decoded[dict[str, msgspec.Raw]] == 0
