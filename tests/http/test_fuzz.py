"""A few seconds of the fuzzing that `make prove` does for ten minutes, with a fixed seed."""

import pytest
from fuzz_rig import Footprint
from fuzzing import fuzz, rigged

CASES = 100


@pytest.mark.parametrize("blocks", [False, True], ids=["awaits", "blocks"])
def test_fuzzed_answers_cause_no_hang_no_leak_and_no_false_success(blocks):
    before = Footprint()
    with rigged(blocks=blocks) as (runner, rig):
        fuzz(runner, rig, number=1, examples=CASES)

    assert rig.verdicts.total() > CASES / 2
    assert {"ok", "broken"} < set(rig.verdicts)
    assert before.files >= Footprint().files
