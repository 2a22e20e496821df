"""A stage with racing attempts."""

from stage import OK, TARGET, Stage, policy

from stormbreak.core.backoff import Backoff
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.types import Outcome, Verdict

FIRST = Outcome(Verdict.OK, committed=True)
AFTER = 0.5


def scene(*, most=1, **changes):
    """A stage where an attempt is slow after half a second, after one answered call."""
    hedge = HedgePolicy(delay=AFTER, percentile=None, max_hedges=most)
    retry = RetryPolicy(max_attempts=5, backoff=Backoff(kind="constant", initial_delay=0.1))
    stage = Stage(policy(**{"hedge": hedge, "retry": retry, **changes})).listen()
    answered(stage)
    return stage


def answered(stage, target=TARGET):
    """Make one call that is answered in time."""
    diagnosis = stage.engine.target_state(target).diagnosis
    diagnosis.settle(diagnosis.take(None, stage.now), OK, stage.now, 0.5)


def slow(stage, **call):
    """Start a call and wait until it is slow."""
    run = stage.start(races=True, **call)
    stage.pass_time(AFTER)
    return run


def events_of(stage, *kinds):
    return [event for event in stage.events if isinstance(event, kinds)]
