"""Runs of the fuzzer: so many cases of one seed, on one loop."""

from hypothesis import HealthCheck, given, seed, settings

from fuzz_cases import cases  # isort: skip


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
