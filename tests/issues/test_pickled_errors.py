"""An exception of a call in a process pool could not be unpickled by the parent, which broke the whole pool."""

import copy
import pickle
import threading
from types import MappingProxyType

from table_test import table_test

from stormbreak import errors, explain
from stormbreak.errors import CallError, StormbreakError, StreamBrokenError, error_for
from stormbreak.http.response import Response
from stormbreak.llm.parsed_response import HttpResponse, ParsedResponse
from stormbreak.types import CallResult, Outcome, Target, Verdict

ENDED = CallResult(Outcome(Verdict.BROKEN, status=200, error=OSError(1, "gone")), attempts=1)


def kinds(above):
    return [above, *(kind for below in above.__subclasses__() for kind in kinds(below))]


CALL_ERRORS = [kind for kind in kinds(CallError) if kind.__module__ == errors.__name__]


@table_test("kind", CALL_ERRORS)
def test_a_call_error_survives_pickling(kind):
    more = {"received": b"some"} if kind is StreamBrokenError else {}
    error = kind("m: broken", target=Target("p", "m", "0123abcd"), ended=ENDED, **more)
    error.add_note("attempt 1")
    came = pickle.loads(pickle.dumps(error))
    assert type(came) is kind
    assert (str(came), came.target, came.verdict) == ("m: broken", error.target, Verdict.BROKEN)
    assert came.__notes__ == ["attempt 1"]
    assert getattr(came, "received", None) == more.get("received")
    assert explain(came) == explain(error)


@table_test("kind", [k for k in kinds(StormbreakError) if not issubclass(k, CallError)])
def test_other_errors_survive_pickling_and_copying(kind):
    error = kind("said")
    error.add_note("noted")
    for came in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(came), str(came), came.__notes__) == (kind, "said", ["noted"])


def answered(**more):
    sent = HttpResponse(429, MappingProxyType({"x": "1"}), b"{}", 0.0, **more)
    return Response(429, b"{}", ParsedResponse(Verdict.THROTTLED), sent)


COPIES = [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy]


@table_test("copied", COPIES)
@table_test("more", [{}, {"repeated": MappingProxyType({"x": ("1", "2")})}])
def test_an_error_with_an_http_response_survives_pickling(copied, more):
    outcome = Outcome(Verdict.THROTTLED, value=answered(**more), status=429, code="slow_down")
    came = copied(error_for(Target("p", "m"), CallResult(outcome, attempts=2)))
    assert (came.status, came.code, came.attempts) == (429, "slow_down", 2)
    assert came.ended.outcome.value == outcome.value
    assert came.ended.outcome.value.original.headers["x"] == "1"


class OddError(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, message, *, lock):
        super().__init__(message)
        self.lock = lock


@table_test("copied", COPIES)
@table_test("lock", [None, threading.Lock()])
def test_parts_that_cannot_be_pickled_are_dropped(copied, lock):
    outcome = Outcome(Verdict.RESET, value=answered(), error=OddError("odd", lock=lock))
    error = error_for(Target("p", "m"), CallResult(outcome, history=("event", threading.Lock())))
    error.mine, error.lock = "mine", threading.Lock()
    error.__cause__ = outcome.error
    came = copied(error)
    assert came.verdict is Verdict.RESET
    assert came.ended.outcome.error is None
    assert came.ended.outcome.value == outcome.value
    assert came.ended.history == ("event",)
    assert (came.mine, came.__cause__) == ("mine", None)
    assert not hasattr(came, "lock")


def test_a_cause_that_can_be_pickled_is_kept():
    error = error_for(Target("p", "m"), ENDED)
    error.__cause__ = OSError(1, "gone")
    came = pickle.loads(pickle.dumps(error))
    assert (type(came.__cause__), came.__cause__.errno) == (PermissionError, 1)
    assert came.__suppress_context__


def test_a_cycle_of_causes_can_be_pickled():
    first, second = (error_for(Target("p", "m"), ENDED) for _ in range(2))
    first.__cause__, second.__cause__ = second, first
    came = pickle.loads(pickle.dumps(first))
    assert type(came.__cause__) is type(second)


def test_a_cause_of_a_local_class_is_dropped():
    class LocalError(Exception):
        pass

    error = error_for(Target("p", "m"), ENDED)
    error.__cause__, error.handler = LocalError(), lambda: None
    came = pickle.loads(pickle.dumps(error))
    assert came.__cause__ is None
    assert not hasattr(came, "handler")
