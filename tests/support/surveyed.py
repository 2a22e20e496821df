"""A survey with figures made by hand: for tests of its arithmetic, and of its pages."""

from stormbreak.storm.random_storms import draw
from stormbreak.storm.survey import Survey, score


def a_survey(*values, preset="interactive"):
    """One draw for each of `values`: what each policy came to; the first policy is the one surveyed."""
    policy, *others = values[0]
    scores = [
        score(draw(number, seed=0, preset=preset), policy, each, preset)
        for number, each in enumerate(values)
    ]
    return Survey(policy=policy, others=tuple(others), seed=0, preset=preset, scores=tuple(scores))
