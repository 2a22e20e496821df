"""Runs of the fuzzer: a number of cases of one seed, on one loop."""

import asyncio
from contextlib import contextmanager

from fuzz_rig import Rig
from hypothesis import HealthCheck, given, seed, settings

from fuzz_cases import cases  # isort: skip


@contextmanager
def rigged(*, blocks=False):
    """Yield a loop and a rig on it; at the end, no resource of its calls may be left."""
    with asyncio.Runner() as runner:
        rig = Rig(blocks=blocks)
        runner.run(rig.start())
        try:
            yield runner, rig
            runner.run(rig.end_block())
        finally:
            runner.run(rig.stop())


def fuzz(runner, rig, *, number, examples):
    """Make calls; if one breaks a rule, raise with the smallest case found that breaks it."""

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def one(case):
        runner.run(rig.run(case))

    one()
