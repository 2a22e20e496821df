"""A few seconds of what `make prove` does for ten minutes, and always the same."""

from fuzz_rig import Footprint
from fuzzing import fuzz, rigged

CASES = 300


def test_broken_answers_hang_nothing_leak_nothing_and_pass_for_nothing():
    before = Footprint()
    with rigged() as (runner, rig):
        fuzz(runner, rig, number=1, examples=CASES)

    assert rig.told.total() > CASES / 2
    assert {"ok", "broken"} < set(rig.told)
    assert before.files >= Footprint().files
