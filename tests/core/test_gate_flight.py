from stage import INVALID, OK, SERVER_ERROR, THROTTLED, TIMEOUT, told
from table_test import table_test

from stormbreak.core.gate import Completion, InFlight
from stormbreak.types import CANCELLED, Outcome, Verdict

LANDINGS = [
    (OK, Completion.ANSWERED),
    (TIMEOUT, Completion.LATE),
    (TIMEOUT._replace(own_deadline=True), Completion.CUT),
    (CANCELLED, Completion.CUT),
    (THROTTLED, Completion.REFUSED),
    (SERVER_ERROR, Completion.REFUSED),
    (INVALID, Completion.CUT),
    (told(3.0), Completion.CUT),
    (told(3.0, Verdict.OVERLOADED), Completion.REFUSED),
    (Outcome(Verdict.CONNECT_FAILED), Completion.REFUSED),
]


@table_test(("outcome", "landing"), LANDINGS)
def test_how_an_attempt_lands(outcome, landing):
    flight = InFlight(3.0)

    assert flight.completion is None
    assert flight.complete(outcome) is landing is flight.completion


def test_a_flight_begins_with_nothing_known():
    flight = InFlight(3.0)

    assert (flight.streams, flight.counted) == (False, False)
    assert (flight.sent_at, flight.first_output_at, flight.block) == (3.0, None, None)
    assert InFlight(3.0, streams=True).streams
