"""A few seconds of what `make prove` does for ten minutes, and always the same."""

import asyncio

from fuzz_rig import Footprint, Rig
from fuzzing import fuzz

CASES = 200


def test_broken_answers_hang_nothing_leak_nothing_and_pass_for_nothing():
    with asyncio.Runner() as runner:
        before = Footprint()
        rig = runner.run(Rig().__aenter__())
        fuzz(runner, rig, number=1, examples=CASES)
        runner.run(rig.__aexit__())

    assert rig.told.total() > CASES / 2
    assert {"ok", "broken"} < set(rig.told)
    assert before.files >= Footprint().files
