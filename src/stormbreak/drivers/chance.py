"""Chance of our own, in [0, 1). A program that seeds `random` would put the jitter of all its processes in step."""

import os
from random import Random

_random = Random()  # noqa: S311 - not secret
draw = _random.random

if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_random.seed)
