from stage import INVALID, OK, SERVER_ERROR, THROTTLED, TIMEOUT, retry_in
from table_test import table_test

from stormbreak.core.gate import Completion, InFlight
from stormbreak.types import CANCELLED, Outcome, Verdict

COMPLETIONS = [
    (OK, Completion.ANSWERED),
    (TIMEOUT, Completion.LATE),
    (TIMEOUT._replace(own_deadline=True), Completion.CUT),
    (CANCELLED, Completion.CUT),
    (THROTTLED, Completion.REFUSED),
    (SERVER_ERROR, Completion.REFUSED),
    (INVALID, Completion.CUT),
    (retry_in(3.0), Completion.CUT),
    (retry_in(3.0, Verdict.OVERLOADED), Completion.REFUSED),
    (Outcome(Verdict.CONNECT_FAILED), Completion.REFUSED),
]


@table_test(("outcome", "completion"), COMPLETIONS)
def test_each_outcome_has_its_completion(outcome, completion):
    flight = InFlight(3.0)

    assert flight.completion is None
    assert flight.complete(outcome) is completion is flight.completion


def test_a_new_attempt_in_flight_knows_its_start_only():
    flight = InFlight(3.0)

    assert (flight.streams, flight.counted) == (False, False)
    assert (flight.sent_at, flight.first_output_at, flight.block) == (3.0, None, None)
    assert InFlight(3.0, streams=True).streams
