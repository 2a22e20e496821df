"""Runs of the fuzzer: so many cases of one seed, on one loop."""

import asyncio
from contextlib import contextmanager

from fuzz_rig import Rig
from hypothesis import HealthCheck, given, seed, settings

from fuzz_cases import cases  # isort: skip


@contextmanager
def rigged(*, blocks=False):
    """A loop and a rig on it. At the end, nothing may be left of its calls."""
    with asyncio.Runner() as runner:
        rig = Rig(blocks=blocks)
        runner.run(rig.start())
        try:
            yield runner, rig
            runner.run(rig.end_block())
        finally:
            runner.run(rig.stop())


def fuzz(runner, rig, *, number, examples):
    """Make calls; raise, with the smallest case that can be found, where one ended as it must not."""

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
