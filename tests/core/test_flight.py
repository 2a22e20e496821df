import pytest
from stage import INVALID, OK, SERVER_ERROR, THROTTLED, TIMEOUT, told

from stormbreak.core.flight import Flight, Landing
from stormbreak.types import CANCELLED, Outcome, Verdict

LANDINGS = [
    (OK, Landing.ANSWERED),
    (TIMEOUT, Landing.LATE),
    (TIMEOUT._replace(own_deadline=True), Landing.CUT),
    (CANCELLED, Landing.CUT),
    (THROTTLED, Landing.REFUSED),
    (SERVER_ERROR, Landing.REFUSED),
    (INVALID, Landing.CUT),
    (told(3.0), Landing.CUT),
    (told(3.0, Verdict.OVERLOADED), Landing.REFUSED),
    (Outcome(Verdict.CONNECT_FAILED), Landing.REFUSED),
]


@pytest.mark.parametrize(("outcome", "landing"), LANDINGS)
def test_how_an_attempt_lands(outcome, landing):
    flight = Flight(3.0)

    assert flight.landing is None
    assert flight.land(outcome) is landing is flight.landing


def test_a_flight_begins_with_nothing_known():
    flight = Flight(3.0)

    assert (flight.streams, flight.counted) == (False, False)
    assert (flight.sent_at, flight.first_at, flight.block) == (3.0, None, None)
    assert Flight(3.0, streams=True).streams
