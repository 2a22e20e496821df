"""Our own random numbers in [0, 1). If a program seeds `random`, its processes would otherwise have equal jitter."""

import os
from random import Random

_random = Random()  # noqa: S311 - not secret
draw = _random.random

if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_random.seed)
