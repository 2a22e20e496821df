import pytest

from stormbreak.core.aimd import AimdConcurrency, AimdLimit
from stormbreak.core.automatic import AutomaticConcurrency, AutomaticLimit
from stormbreak.core.concurrency import Concurrency, FixedLimit
from stormbreak.core.limit import limiter

KINDS = [
    (FixedLimit(), Concurrency),
    (AimdLimit(), AimdConcurrency),
    (AutomaticLimit(), AutomaticConcurrency),
]


@pytest.mark.parametrize(("policy", "machine"), KINDS)
def test_each_kind_of_limit_has_its_machine(policy, machine):
    assert isinstance(limiter(policy, paused=lambda _: False), machine)
