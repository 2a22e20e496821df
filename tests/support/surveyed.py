"""A survey with figures made by hand, for tests of its arithmetic and its pages."""

from stormbreak.storm.random_storms import draw
from stormbreak.storm.survey import Survey, score


def a_survey(*values, preset="interactive"):
    """One draw per item of `values`: the result of each policy; the first policy is the surveyed one."""
    policy, *others = values[0]
    scores = [
        score(draw(number, seed=0, preset=preset), policy, each, preset)
        for number, each in enumerate(values)
    ]
    return Survey(policy=policy, others=tuple(others), seed=0, preset=preset, scores=tuple(scores))
