"""Looks at a run for its course."""

import time
from collections.abc import Callable

from stormbreak.batch.run_timeseries import Course, RunSample
from stormbreak.batch.running.runner import Runner

Tick = Callable[[Runner], None]


def watching(course: Course, tick: Tick) -> Tick:
    """A tick that tells `course` how the run stands, and then does what `tick` does."""

    def look(runner: Runner) -> None:
        course.look(sample_run(runner))
        tick(runner)

    return look


def sample_run(runner: Runner) -> RunSample:
    """Look at `runner`. No more than its width is in flight, whatever limits its targets have."""
    targets = runner.client.snapshot(pending=False)["targets"].values()
    in_flight = sum(each["in_flight"] for each in targets)
    limit = sum(each["limit"] for each in targets) if targets else runner.width
    return RunSample(
        at=time.monotonic(),
        in_flight=in_flight,
        limit=min(limit, runner.width),
        waiting=runner.under_way - in_flight + runner.schedule.waiting,
        open_circuits=sum(each["circuit"] in _NOT_CLOSED for each in targets),
        cooling=sum(each["cooldown"] > 0 for each in targets),
        answered=runner.journal.done,
        failed=runner.journal.failed - runner.journal.again,
        input_tokens=runner.counts.input_tokens,
        output_tokens=runner.counts.output_tokens,
    )


_NOT_CLOSED = {"open", "half_open", "isolated"}
