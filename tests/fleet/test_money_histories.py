"""Money is never spent twice: histories of calls, lost messages, lost members and a store that loses its data."""

from copy import deepcopy
from decimal import Decimal
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.core.fleet_lease import SpendLease
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.spend_policy import SpendPolicy, period_end
from stormbreak.cost.spend_gate import SpendAccount
from stormbreak.fleet.lease_renewal import SpendMembership, micro_dollars
from stormbreak.fleet.store_rules import QUIET, Member, Scope, beat

LIMIT = Decimal(10)
MEMBERS = 3
FATES = ("delivered", "delivered", "answer_lost", "report_lost")  # of a report and its answer

members = st.integers(0, MEMBERS - 1)
amounts = st.sampled_from([Decimal("0.5"), Decimal(2), Decimal(4)])
STEPS = (
    st.tuples(st.just("beat"), members, st.sampled_from(FATES)),
    st.tuples(st.just("look"), members, st.sampled_from(FATES)),
    st.tuples(st.just("call"), members, amounts),
    st.tuples(st.just("ask"), members, st.tuples(amounts, st.sampled_from(FATES))),
    st.tuples(st.just("ask"), members, st.tuples(amounts, st.sampled_from(FATES))),
    st.tuples(st.just("use"), members, amounts),
    st.tuples(st.just("end"), members, st.sampled_from([Decimal(0), Decimal("0.3"), Decimal(1)])),
    st.tuples(st.just("pass"), members, st.sampled_from([0.1, 1.5, 7.0, 12.0, 19.98])),
    st.tuples(st.just("clock"), members, st.sampled_from([3_600.0, -3_600.0])),
    st.tuples(st.just("die"), members, st.none()),
    st.tuples(st.just("leave"), members, st.none()),
    st.tuples(st.just("rest"), members, st.sampled_from(FATES)),
)
forgetting = st.tuples(st.just("forget"), members, st.booleans())
CALENDAR = (
    *(each for each in STEPS if "clock" not in str(each)),
    st.tuples(st.just("nudge"), members, st.sampled_from([600.0, -600.0, -10.0])),
    st.tuples(st.just("pass"), members, st.sampled_from([600.0, 3_590.0])),
)
long_pass = st.tuples(st.just("pass"), members, st.just(3_700.0))  # perhaps without a report
FAILOVER = (
    st.tuples(st.just("replicate"), members, st.none()),
    st.tuples(st.just("fail_over"), members, st.booleans()),
)


class Process:
    """A member with its account and the calls in flight, each with the period in which it was sent."""

    def __init__(self, name, policy):
        self.account = SpendAccount(policy)
        self.last_counted = {}  # micro-dollars of each member that the last answer counted as spent
        self.wants = []
        self.calls = []
        self.member = SpendMembership(
            "s", name, self.account, policy, bounds=lambda _: self.wants, on_change=lambda _: None
        )
        self.member.lease = self.account.lease = SpendLease(
            FleetPolicy(url="redis://x"), 1.0, lambda: None
        )

    @property
    def money(self):
        return max(self.account.lease.granted, micro_dollars(self.account.spent))


class World:
    """All processes, the store, and a ledger of what was spent or reserved in each period."""

    def __init__(self, period):
        self.policy = SpendPolicy(max_usd=float(LIMIT), period=period)
        self.now, self.scope, self.count = 1_000.0, Scope(), 0
        self.replica, self.server = Scope(), 1.0
        self.skew = 1_000_000.0  # of the store's clock
        self.ledger = {}
        self.unknown = {}  # micro-dollars of members that a store without data never learned of
        self.ghosts = {}  # micro-dollars of them that it did learn of
        self.dead = []
        self.processes = [self.process() for _ in range(MEMBERS)]

    def process(self):
        self.count += 1
        return Process(f"m{self.count:03}", self.policy)

    def beat(self, place, how, *, leaves=False):
        process = self.processes[place]
        self._send(process, process.member.report(self.now, leaves=leaves), how)

    def look(self, place, how):
        """Report if it is due, or along with another report; return whether there was anything to report."""
        process = self.processes[place]
        report = process.member.due_report(self.now, along=how == "answer_lost")
        if report is not None:
            self._send(process, report, how)
        return report is not None

    def _send(self, process, report, how):
        sent_at = self.now
        if how != "report_lost":
            name, at = process.member.name, self.now + self.skew
            answer = beat(self.scope, name, report, at, server=self.server)
            self.now += 0.01
            if how == "delivered":
                process.last_counted = self._counted()
                process.member.apply(answer, sent_at, self.now)

    def call(self, place, bound):
        process = self.processes[place]
        account = process.account
        process.wants = [bound]
        if account.ready_at(bound, self.now) > self.now:
            return
        process.wants = []
        started = account.lease.started
        self.ledger[started] = self.ledger.get(started, Decimal(0)) + bound
        process.calls.append((started, bound, account.reserve(bound, self.now)))

    def ask(self, place, what):
        """A call waits, a report is sent, and the call tries again."""
        bound, fate = what
        self.processes[place].wants = [bound]
        self.processes[place].account.lease.wake()
        self.beat(place, fate)
        self.call(place, bound)

    def use(self, place, bound):
        """A call that costs its whole bound, and is reported."""
        before = len(self.processes[place].calls)
        self.ask(place, (bound, "delivered"))
        if len(self.processes[place].calls) > before:
            self.end(place, Decimal(1), newest=True)
            self.beat(place, "delivered")

    def end(self, place, part, *, newest=False):
        process = self.processes[place]
        if process.calls:
            started, bound, period = process.calls.pop(-1 if newest else 0)
            cost = bound * part
            self.ledger[started] += cost - bound
            process.account.settle(bound, cost, period, self.now)

    def clock(self, _place, seconds):
        """The clock of the store is set."""
        self.skew += seconds

    def nudge(self, _place, seconds):
        """The clock of the store is set, but never back by an hour in total."""
        if self.skew + seconds >= 1_000_000.0 - 3_000.0:
            self.skew = min(self.skew + seconds, 1_000_000.0)

    def die(self, place, _):
        self.dead.append(self.processes[place])
        self.processes[place] = self.process()

    def leave(self, place, _):
        self.processes[place].wants = []
        if not self.processes[place].calls:
            self.beat(place, "delivered", leaves=True)
            self.die(place, None)

    def rest(self, place, fate):
        """The client is closed; it may be used again."""
        self.processes[place].wants = []
        self.processes[place].account.lease.rest()
        self.beat(place, fate)

    def _counted(self):
        """Return what the store counts as spent, by member."""
        counted = {
            name: each.spent if each.until > self.now + self.skew else each.money
            for name, each in self.scope.members.items()
        }
        return {**self.ghosts, **counted}

    def forget(self, place, is_stopped):
        """The store loses its data. Live members report within seconds, except one that is away or `is_stopped`."""
        there, missing = self._there(place, is_stopped)
        counted = max(
            (each.last_counted for each in there), key=lambda each: sum(each.values()), default={}
        )
        for each in (*self.dead, *missing):
            name = each.member.name
            self.ghosts[name] = known = min(counted.get(name, 0), each.money)
            self.unknown[name] = max(self.unknown.get(name, 0), each.money - known)
        self.scope = Scope()
        self._assert(there)

    def replicate(self, _place, _):
        """A replica has received everything until now."""
        self.replica = deepcopy(self.scope)

    def fail_over(self, place, is_stopped):
        """The replica takes over. Live members report within seconds, except one that is away or `is_stopped`."""
        there, missing = self._there(place, is_stopped)
        self.scope, self.server = deepcopy(self.replica), self.server + 1
        for each in (*self.dead, *missing):
            name, known = each.member.name, self.scope.members.get(each.member.name, Member()).money
            self.unknown[name] = max(self.unknown.get(name, 0), each.money - known)
        self._assert(there)

    def _assert(self, there):
        """Present members report; those that know nothing come last, or an empty store would trust them."""
        for each in sorted(there, key=lambda each: (-each.member.epoch, -each.money)):
            self.beat(self.processes.index(each), "delivered")

    def _there(self, place, is_stopped):
        """Return the members that report now, and those that do not."""
        missing = [each for each in self.processes if each.member.is_away]
        if is_stopped:
            missing.append(self.processes[place])
        return [each for each in self.processes if each not in missing], missing

    def play(self, history):
        for what, place, how in history:
            if what == "pass":
                self.now += how
            else:
                getattr(self, what)(place, how)
            lost = Decimal(int(sum(self.unknown.values()))) / 1_000_000
            periods = {}
            for started, spent in self.ledger.items():
                period = period_end("hour", started) if self.policy.period == "hour" else started
                periods[period] = periods.get(period, Decimal(0)) + spent
            for spent in periods.values():
                assert spent <= LIMIT + lost


@given(st.lists(st.one_of(*STEPS, forgetting), min_size=20, max_size=60))
def test_a_limit_without_a_period_is_never_exceeded(history):
    World(None).play(history)


@pytest.mark.parametrize("period", [None, 20.0, 86_400.0])
@given(history=st.lists(st.one_of(*STEPS, long_pass), min_size=20, max_size=60))
def test_a_limit_is_never_exceeded_while_the_store_keeps_its_data(period, history):
    World(period).play(history)


@pytest.mark.parametrize("period", [None, 20.0])
@given(history=st.lists(st.one_of(*STEPS, long_pass, *FAILOVER), min_size=20, max_size=60))
def test_a_failover_exceeds_the_limit_only_by_grants_of_lost_members(period, history):
    World(period).play(history)


@given(st.lists(st.one_of(*CALENDAR), min_size=20, max_size=60))
def test_an_hour_is_never_granted_twice_when_the_store_clock_is_set_back(history):
    World("hour").play(history)


def test_a_store_clock_set_back_by_days_delays_the_next_period_by_at_most_one():
    world = World("hour")
    world.ask(0, (Decimal(8), "delivered"))
    world.clock(0, -200_000.0)
    world.beat(2, "delivered")
    world.now += 3_600.0
    world.ask(1, (Decimal(8), "delivered"))
    assert list(world.ledger.values()) == [Decimal(8)] * 2


def test_a_replica_grants_nothing_until_unknown_members_had_time_to_report():
    world = World(None)
    world.ask(0, (Decimal("0.5"), "delivered"))
    world.replicate(0, None)
    world.ask(1, (Decimal(6), "delivered"))
    world.scope, world.server = world.replica, 2.0
    world.ask(0, (Decimal(4), "delivered"))
    assert len(world.processes[0].calls) == 1
    world.beat(1, "delivered")
    world.now += QUIET
    world.ask(0, (Decimal(4), "delivered"))
    world.ask(0, (Decimal(3), "delivered"))
    assert world.ledger == {1.0: Decimal("9.5")}


@table_test("period", [None, 20.0])
def test_a_replica_learns_the_period_and_its_spending_from_members(period):
    """Found: the replica forgot what all had spent in the period, and the limit was spent once more."""
    world = World(period)
    world.beat(0, "delivered")
    world.replicate(0, None)
    world.ask(0, (Decimal(8), "delivered"))
    world.fail_over(1, False)
    world.now += QUIET
    world.ask(1, (Decimal(4), "delivered"))
    assert list(world.ledger.values()) == [Decimal(8)]


def test_members_report_the_spending_of_a_lost_member_to_an_empty_store():
    world = World(None)
    world.ask(0, (Decimal(6), "delivered"))
    world.end(0, Decimal(1))
    world.beat(0, "delivered")
    world.ask(1, (Decimal("0.5"), "delivered"))
    world.die(0, None)
    world.forget(0, False)
    world.now += 7.0
    world.ask(1, (Decimal(4), "delivered"))
    assert len(world.processes[1].calls) == 1  # only 3.50 USD of the 4 are left
    world.ask(1, (Decimal("3.5"), "delivered"))
    assert world.ledger == {1.0: Decimal(10)}


def test_spending_of_a_member_that_reports_late_counts_once():
    world = World(None)
    world.ask(0, (Decimal(4), "delivered"))
    world.end(0, Decimal(1))
    world.beat(0, "delivered")
    world.ask(1, (Decimal("0.5"), "delivered"))
    world.forget(0, True)
    world.now += 7.0
    world.beat(0, "delivered")
    assert world.scope.unclaimed == 0
    world.ask(1, (Decimal("5.5"), "delivered"))
    assert world.ledger == {1.0: Decimal(10)}


def test_spending_of_a_member_cut_off_for_over_an_hour_counts_once():
    """Found: its money counted as spent for good, and once more when it reported again."""
    world = World(None)
    world.ask(0, (Decimal(6), "delivered"))
    world.end(0, Decimal(1))
    world.beat(0, "delivered")
    world.now += 3_700.0
    world.beat(1, "delivered")
    assert world.scope.folded == 6_000_000
    world.beat(0, "delivered")
    world.ask(0, (Decimal(4), "delivered"))
    assert world.ledger == {1.0: Decimal(10)}


def test_a_call_that_ends_after_its_period_returns_no_money_to_the_next():
    """Found: a member spent the allowance of the last period again, before the store had begun the next."""
    asked = [("ask", 2, (Decimal(2), "delivered"))] * 2
    late = [("pass", 0, 19.98), ("end", 2, Decimal(0)), ("call", 2, Decimal(4))]
    world = World(20.0)
    world.play([*[("beat", 0, "delivered")] * 12, *asked, *late])
    assert len(world.processes[2].calls) == 1


def test_a_waiting_call_is_granted_money_once_another_call_returns_it():
    world = World(None)
    world.call(0, Decimal(6))
    world.beat(0, "answer_lost")
    world.beat(0, "delivered")
    world.call(0, Decimal(6))
    assert world.ledger == {1.0: Decimal(6)}
    world.call(1, Decimal(6))
    world.beat(1, "delivered")
    assert world.processes[1].account.ready_at(Decimal(6), world.now) == inf
    world.end(0, Decimal(0))
    world.now += 2.0
    world.beat(0, "delivered")  # returns the unused money
    world.beat(1, "delivered")
    world.call(1, Decimal(6))
    assert world.ledger == {1.0: Decimal(6)}


def test_a_denied_member_returns_only_money_that_no_call_reserves():
    world = World(None)
    world.ask(0, (Decimal(6), "delivered"))
    world.ask(0, (Decimal(5), "delivered"))  # denied
    world.beat(0, "delivered")
    world.ask(1, (Decimal(5), "delivered"))
    assert world.ledger == {1.0: Decimal(6)}
    world.ask(1, (Decimal(4), "delivered"))
    assert world.ledger == {1.0: Decimal(10)}


def test_a_call_that_ends_with_its_period_returns_nothing_to_the_store():
    """Found: behind a slow network the store still had that period, and granted the money again."""
    world = World(20.0)
    world.ask(0, (Decimal(6), "delivered"))
    process = world.processes[0]
    world.now = process.account.ends_at
    world.end(0, Decimal(1))
    report = process.member.report(world.now)
    beat(world.scope, process.member.name, report, world.now + world.skew - 0.25)
    assert world.scope.members[process.member.name].money == 6_000_000


def test_a_period_ended_by_the_store_clock_does_not_begin_again():
    """Found: after the clock jumped by an hour a member restored its period, without the money of other members."""
    world = World(20.0)
    world.ask(0, (Decimal(4), "delivered"))
    world.ask(1, (Decimal(4), "delivered"))
    world.clock(0, 3_600.0)
    world.ask(0, (Decimal(4), "delivered"))
    assert list(world.ledger.values()) == [Decimal(8), Decimal(4)]


def test_a_period_over_for_the_member_but_not_for_the_store_allows_no_call():
    world = World(20.0)
    world.ask(0, (Decimal(10), "delivered"))
    world.end(0, Decimal(1))
    account = world.processes[0].account
    world.now = account.ends_at
    world.processes[0].wants = [Decimal(10)]
    report = world.processes[0].member.report(world.now)
    answer = beat(
        world.scope, world.processes[0].member.name, report, world.now + world.skew - 0.001
    )
    assert answer.spend.started == 1_000.0 + world.skew
    world.processes[0].member.apply(answer, world.now, world.now)
    assert account.ready_at(Decimal(10), world.now) > world.now
    world.now += 1.0
    world.ask(0, (Decimal(10), "delivered"))
    assert [Decimal(10), Decimal(10)] == list(world.ledger.values())


def test_a_closed_client_returns_unspent_money():
    world = World(None)
    world.ask(0, (Decimal(4), "delivered"))
    world.end(0, Decimal("0.5"))
    world.rest(0, "delivered")
    world.ask(1, (Decimal(8), "delivered"))
    assert world.ledger == {1.0: Decimal(10)}
    world.end(1, Decimal(0))
    world.rest(1, "delivered")
    world.ask(0, (Decimal(8), "delivered"))  # used again
    assert world.ledger == {1.0: Decimal(10)}


def test_a_calm_member_returns_unneeded_money_with_few_reports():
    """A member with a grant for one call of a dollar has not used the rest for a second."""
    world = World(None)
    one = world.processes[0]
    world.ask(0, (Decimal("0.01"), "delivered"))
    world.end(0, Decimal(1))
    reports, start = 0, world.now
    while world.now < start + 10.0:
        world.now = max(world.now, one.member.next_at)
        reports += world.look(0, "delivered")
        if reports == 1:
            assert one.account.lease.allowance == micro_dollars(one.account.spent)
    assert reports <= 4


def test_a_scope_dropped_by_the_store_after_disuse_is_not_a_restart():
    """Found: the first call after an hour was denied money, as after a restart."""
    world = World(20.0)
    world.ask(0, (Decimal(1), "delivered"))
    world.end(0, Decimal(1))
    world.now += 30.0
    world.beat(0, "delivered")
    world.now += 3_700.0
    world.scope = Scope()
    world.ask(0, (Decimal(1), "delivered"))
    assert len(world.processes[0].calls) == 1
    assert world.processes[0].member.restarts == 0


@table_test(("to", "allowance"), [(0.8, 300_000), (3.0, 1_000_000), (2.0, 1_000_000)])
def test_a_lower_limit_reduces_the_granted_allowance(to, allowance):
    limit = SpendPolicy(max_usd=2.0)
    account, woken = SpendAccount(limit), []
    member = SpendMembership(
        "scope", "name", account, limit, bounds=lambda _: [], on_change=lambda _: None
    )
    member.lease = SpendLease(FleetPolicy(url="redis://x"), 1.0, lambda: woken.append(to))
    member.lease.granted = 1_000_000
    account.spent += 3 * account.limit / 20  # 0.30 USD

    member.change_limit(SpendPolicy(max_usd=to))
    assert member.lease.allowance == allowance
    assert bool(woken) is (to < 2.0)
