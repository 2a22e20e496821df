"""63 % of the answers are cut. All attempts fit into the slots, but only complete answers counted as throughput, so each
update made the limit smaller, and the queue confirmed the next one. 58 to 84 % were answered during the fault.
"""

from stormbreak.provider.scenario import Fault, Kind, Load, Provider, Scenario
from stormbreak.storm import simulate
from stormbreak.storm.policies import find

CUT = Scenario(
    name="cut",
    duration=150.0,
    provider=Provider(slots=60, service=1.8, variation=0.6),
    faults=(Fault(kind=Kind.CUT_BODY, at=20.0, until=110.0, share=0.63),),
    load=Load(
        rate=14.0, processes=1, deadline=60.0, timeout=15.0, trigger_at=20.0, trigger_until=110.0
    ),
)


def test_cut_answers_do_not_lower_the_concurrency_limit():
    for seed in (1, 2, 3):
        assert simulate(CUT, find("interactive"), seed=seed).measures.trigger_goodput > 0.9
