"""A few seconds of what `make prove` does for ten minutes, and always the same."""

import pytest
from fuzz_rig import Footprint
from fuzzing import fuzz, rigged

CASES = 100


@pytest.mark.parametrize("blocks", [False, True], ids=["awaits", "blocks"])
def test_broken_answers_hang_nothing_leak_nothing_and_pass_for_nothing(blocks):
    before = Footprint()
    with rigged(blocks=blocks) as (runner, rig):
        fuzz(runner, rig, number=1, examples=CASES)

    assert rig.told.total() > CASES / 2
    assert {"ok", "broken"} < set(rig.told)
    assert before.files >= Footprint().files
