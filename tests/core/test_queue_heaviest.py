from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from stormbreak.core.queue_order import CLEANUP_SIZE, HeaviestTenant

TENANTS = st.sampled_from(["", "a", "b", "big", "small"])
WEIGHTS = {"big": 3.0, "small": 0.5}


class BackgroundTraffic:
    """Waiting calls by tenant, and how often a load was read."""

    def __init__(self):
        self.calls = Counter()
        self.reads = 0
        self.heaviest = HeaviestTenant(self.calls.keys(), self.load_of)

    def load_of(self, tenant):
        self.reads += 1
        return self.calls.get(tenant, 0) / WEIGHTS.get(tenant, 1.0)

    def come(self, tenant):
        self.calls[tenant] += 1
        self.heaviest.on_growth(tenant)

    def go(self, tenant):
        self.calls[tenant] -= 1
        if not self.calls[tenant]:
            del self.calls[tenant]


@given(steps=st.lists(st.tuples(st.sampled_from(["come", "go", "find"]), TENANTS)))
def test_the_heaviest_tenant_has_the_highest_load(steps):
    crowd = BackgroundTraffic()
    for step, tenant in steps:
        if step == "come":
            crowd.come(tenant)
        elif step == "go" and tenant in crowd.calls:
            crowd.go(tenant)
        elif step == "find" and crowd.calls:
            assert crowd.load_of(crowd.heaviest.find()) == max(map(crowd.load_of, crowd.calls))


def test_of_equal_loads_the_one_that_reached_it_first_is_heaviest():
    crowd = BackgroundTraffic()
    for tenant in ("b", "a"):
        crowd.come(tenant)
    assert crowd.heaviest.find() == "b"
    for tenant in ("a", "b"):
        crowd.come(tenant)
    assert crowd.heaviest.find() == "a"


def test_a_tenant_whose_load_shrank_is_sorted_again():
    crowd = BackgroundTraffic()
    for tenant in ("a", "a", "a", "b", "b"):
        crowd.come(tenant)
    assert crowd.heaviest.find() == "a"
    crowd.go("a")
    crowd.go("a")
    assert crowd.heaviest.find() == "b"
    crowd.go("b")
    crowd.go("b")
    assert crowd.heaviest.find() == "a"


def test_finding_the_heaviest_does_not_read_every_load():
    crowd = BackgroundTraffic()
    for number in range(5_000):
        crowd.come(str(number))
    crowd.heaviest.find()
    crowd.reads = 0
    for number in range(100):
        crowd.come(str(number))
        crowd.go(crowd.heaviest.find())

    assert crowd.reads <= 5 * 100


def test_unused_loads_are_cleaned_up():
    crowd = BackgroundTraffic()
    for _ in range(3):
        crowd.come("a")
    assert crowd.heaviest.find() == "a"
    for _ in range(1_000):
        crowd.come("b")
        crowd.go("b")
        assert len(crowd.heaviest._heap or ()) <= CLEANUP_SIZE + 2 * 3
    for _ in range(4):
        crowd.come("b")
    assert crowd.heaviest.find() == "b"


def test_rebuilding_the_heap_keeps_every_tenant():
    crowd = BackgroundTraffic()
    crowd.come("a")
    crowd.heaviest.find()
    for number in range(2 * CLEANUP_SIZE):
        crowd.come("b")
        assert crowd.heaviest.find() == ("a" if number == 0 else "b")
