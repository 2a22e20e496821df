"""What a call raised in a process of a pool could not be unpickled by the process that waited: the whole pool was broken."""

import pickle

import pytest

from stormbreak import explain
from stormbreak.errors import StreamBrokenError, UpstreamError
from stormbreak.types import Ended, Outcome, Target, Verdict

ENDED = Ended(Outcome(Verdict.BROKEN, status=200, error=OSError(1, "gone")), attempts=1)


def kinds(above=UpstreamError):
    return [above, *(kind for below in above.__subclasses__() for kind in kinds(below))]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_comes_as_it_went(kind):
    more = {"received": b"some"} if kind is StreamBrokenError else {}
    error = kind("m: broken", target=Target("p", "m", "0123abcd"), ended=ENDED, **more)
    error.add_note("attempt 1")
    came = pickle.loads(pickle.dumps(error))
    assert type(came) is kind
    assert (str(came), came.target, came.verdict) == ("m: broken", error.target, Verdict.BROKEN)
    assert came.__notes__ == ["attempt 1"]
    assert getattr(came, "received", None) == more.get("received")
    assert explain(came) == explain(error)
