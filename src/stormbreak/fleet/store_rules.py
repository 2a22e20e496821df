"""Divide a shared limit among the members of a fleet: a pure model. `store_rules.lua` does the same.

`beat` processes the report of one member and answers it.

A scope is the range of one limit: a target, or an account with a spend limit. Its members lease parts of the limit. The
store keeps a lease without hearing from the member: it ends by time, or when the member acknowledges another one.

- Rates: the generic cell rate algorithm (`core.rate_limit_gate.Bucket`), ahead of time by HORIZON. The answer says when
  units may be used. The member that has waited longest is served first, then all by their demand (max-min).
- Slots in flight: a cap for each member, max-min by demand. A slot that a member may still hold goes to no other.
- Money: three numbers for each member and period, granted, returned and spent, which never decrease. So a report that
  arrives twice, late, or at a store that lost its data, does no harm. A store that lost its data learns from its
  members how much all of them had spent. The part that no member claims counts as spent. A calendar period ends by the
  time of day. If that clock is set back, no other period begins before that end.
- Cooldowns: the newest news wins.

Numbers are floats, and operations have the same order as in the script, so that both give equal results.
"""

from dataclasses import dataclass, field
from math import floor, inf
from typing import NamedTuple

from stormbreak.core.spend_policy import CALENDARS, bounded_end, period_end
from stormbreak.fleet.messages import (
    HOLD,
    LIFT,
    NONE,
    Answer,
    RateLease,
    RateReport,
    Report,
    SpendAnswer,
)

LEASE = 10.0  # seconds for which a member counts after its last report
HORIZON = 0.5  # seconds ahead for which units are granted
DEMAND = 1.0  # seconds for which a member's demand counts
MAX_DEBT = 60.0  # seconds of a rate that may be owed
MIN_AGAIN, MAX_AGAIN = 0.05, 0.25  # seconds until a member that got too little asks again
CHUNK = 50.0  # a grant of money is this fraction of the rest: 1/CHUNK
QUIET = 5.0  # seconds of a new epoch or server in which members report their money, before any is granted
EVER = 1.0  # the start of the only period of a limit without periods
FORGOTTEN = 3600.0  # seconds after its lease until a lost member's money counts as spent


@dataclass(slots=True)
class Demand:
    """A member's demand for a rate: when it asked, how much, the minimum; when it was last served; the debt."""

    asked_at: float = 0.0
    want: float = 0.0
    least: float = 0.0
    served_at: float = 0.0
    owed: float = 0.0


@dataclass(slots=True)
class Member:
    """The store's knowledge of a member, whose lease ends at `until`."""

    until: float = 0.0
    requests: Demand = field(default_factory=Demand)
    tokens: Demand = field(default_factory=Demand)
    held: float = 0.0  # slots that it may hold
    want: float = 0.0
    served_at: float = 0.0
    granted: float = 0.0
    returned: float = 0.0
    spent: float = 0.0

    @property
    def money(self) -> float:
        """The money that it may have spent, or may still spend."""
        return max(self.granted - self.returned, self.spent)


@dataclass(slots=True)
class Scope:
    """The state of one scope. `tats` are the times at which the buckets of requests and tokens are full again."""

    epoch: float = 0.0
    at: float = 0.0  # the time of the last report
    quiet_until: float = 0.0
    tats: list[float] = field(default_factory=lambda: [0.0, 0.0])
    cooldown_at: float = 0.0  # when the attempt that brought the news was sent
    cooldown_until: float = 0.0
    started: float = 0.0  # start of the period; 0: none has begun
    ends_at: float = NONE  # end of the period, or of the last calendar period
    folded: float = 0.0  # money of members that were lost long ago
    forgotten: float = 0.0  # total spending before a loss of data, as a member knows it ...
    asserted: float = 0.0  # ... and the part of it that members have claimed since
    server: float = 0.0  # id of the server that keeps the scope; 0: unknown
    members: dict[str, Member] = field(default_factory=dict)
    # Derived from the members, so that a report need not examine thousands of them to see that no lease has ended.
    lost: int = field(default=0, compare=False)  # members kept only for their money
    next_loss: float = field(default=-inf, compare=False)  # no lease ends before
    period: float = field(default=0.0, compare=False)  # from the reports

    @property
    def unclaimed(self) -> float:
        """Money of members that were lost long ago, or with the store's data."""
        return self.folded + max(0.0, self.forgotten - self.asserted)

    def money_time(self, now: float, wall: float | None) -> float:
        """Return the time of the clock for its periods: the time of day for calendar periods."""
        return now if wall is None or self.period >= 0 else wall


def beat(
    scope: Scope,
    name: str,
    report: Report,
    now: float,
    *,
    quiet_until: float = 0.0,
    server: float = 0.0,
    wall: float | None = None,
) -> Answer:
    """Process the report of member `name` and answer it. No money is granted before `quiet_until`.

    `wall` is unix epoch seconds, if `now` is from another clock. A changed `server` may have lost the last grants.
    """
    if scope.epoch == 0:
        scope.epoch = now
    scope.period = report.spend.period
    at = scope.money_time(now, wall)
    if now < scope.at:
        _set_back(scope, scope.at - now)
    scope.at = now
    _be_quiet_after_loss(scope, report, now, server)
    _end_period(scope, at, now)
    if now >= scope.next_loss:
        _drop_lost(scope, now)
    me = scope.members.get(name)
    is_new = me is None
    if me is None:
        me = scope.members[name] = Member(served_at=now)
        for demand, rate in ((me.requests, report.requests), (me.tokens, report.tokens)):
            demand.served_at, demand.owed = now, rate.owed
    elif me.until <= now:
        scope.lost -= 1
    me.until = now if report.leaves else now + LEASE
    scope.lost += me.until <= now
    scope.next_loss = min(scope.next_loss, _kept_until(me, now))
    requests = _lease_rate(scope, 0, name, report.requests, now)
    tokens = _lease_rate(scope, 1, name, report.tokens, now)
    cap = _lease_slots(scope, name, report, now)
    cooldown = _gossip(scope, report, now)
    if is_new and report.epoch != 0:
        _remember(scope, report, at, now)
    quiet = now < max(quiet_until, scope.quiet_until)
    spend = _account(scope, name, report, at, now, quiet=quiet)
    members = len(scope.members) - scope.lost
    if report.leaves and me.money == 0:
        del scope.members[name]
        scope.lost -= 1
    return Answer(scope.epoch, float(members), requests, tokens, cap, cooldown, spend)


def _be_quiet_after_loss(scope: Scope, report: Report, now: float, server: float) -> None:
    """Grant no money for a while if the store has lost data that this member knows, or may have with its server."""
    if report.epoch not in (0, scope.epoch):
        scope.quiet_until = max(scope.quiet_until, scope.epoch + QUIET)
    if server not in (0, scope.server):
        if scope.server != 0:
            scope.quiet_until = max(scope.quiet_until, now + QUIET)
        scope.server = server


def _set_back(scope: Scope, seconds: float) -> None:
    """Move all times: the clock of the store was set back."""
    scope.quiet_until -= seconds
    scope.tats = [tat and tat - seconds for tat in scope.tats]
    scope.cooldown_at -= seconds
    scope.cooldown_until -= seconds
    scope.ends_at -= seconds if scope.ends_at != NONE and scope.period >= 0 else 0.0
    scope.next_loss = -inf
    for member in scope.members.values():
        member.until -= seconds
        member.served_at -= seconds
        for demand in (member.requests, member.tokens):
            demand.asked_at -= seconds
            demand.served_at -= seconds


def _drop_lost(scope: Scope, now: float) -> None:
    """Forget members whose lease has ended; keep their money."""
    for name, member in list(scope.members.items()):
        if member.until <= now and (member.money == 0 or member.until + FORGOTTEN <= now):
            scope.folded += member.money
            del scope.members[name]
    kept = scope.members.values()
    scope.lost = sum(member.until <= now for member in kept)
    scope.next_loss = min((_kept_until(member, now) for member in kept), default=inf)


def _kept_until(member: Member, now: float) -> float:
    """Return the end of a member's lease, or the time at which a lost member is forgotten."""
    return member.until if member.until > now else member.until + FORGOTTEN


# ---------------------------------------------------------------- fair division


class Wanter(NamedTuple):
    """A member that wants some units, and needs a minimum of them."""

    served_at: float
    name: str
    want: float
    need: float


def divide(room: float, wanters: list[Wanter], name: str) -> float:
    """Divide `room` whole units; return the part of `name`.

    Each member gets its minimum, the longest unserved first, and no member overtakes it. The rest is divided max-min by
    demand.
    """
    part, rest = 0.0, []
    for each in sorted(wanters):
        if each.need > room:
            room = 0.0
            break
        room -= each.need
        rest.append((each.want - each.need, each.name))
        if each.name == name:
            part = each.need
    for place, (more, whose) in enumerate(sorted(rest)):
        more = min(more, floor(room / (len(rest) - place)))  # noqa: PLW2901 - its share
        room -= more
        if whose == name:
            part += more
    return part


# ---------------------------------------------------------------- rates


def _lease_rate(scope: Scope, kind: int, name: str, asked: RateReport, now: float) -> RateLease:
    if asked.per_minute == 0:
        return RateLease()
    seconds = 60 / asked.per_minute  # of one unit
    depth = max(asked.burst, seconds)
    tat = scope.tats[kind]
    if tat == 0:
        tat = now + depth  # unknown: as if a burst had just been used
    demands = {other: (each.requests, each.tokens)[kind] for other, each in scope.members.items()}
    mine = demands[name]
    tat = max(tat, now) + (asked.owed - mine.owed) * seconds
    tat = min(max(tat, now), now + max(depth, MAX_DEBT))
    mine.owed = asked.owed
    mine.asked_at, mine.want, mine.least = now, asked.want, asked.least
    room = floor((now + HORIZON + depth - tat) / seconds)
    whole = max(1.0, floor(depth / seconds))  # units of a full bucket
    wanters = [
        Wanter(each.served_at, other, each.want, min(each.least, each.want, whole))
        for other, each in demands.items()
        if each.want > 0 and each.asked_at + DEMAND > now
    ]
    part = divide(max(room, 0.0), wanters, name)
    lump = lump_in = first_in = count = 0.0
    if part > 0:
        mine.served_at = now
        lump = min(asked.least, asked.want)  # an excess over a full bucket is paid off afterwards
        lump_in = max(tat - max(0.0, depth - lump * seconds), now) - now
        tat += lump * seconds
        count = max(0.0, part - lump)
        first_in = tat - depth + seconds - now
        tat += count * seconds
        mine.want = max(0.0, asked.want - lump - count)
    scope.tats[kind] = tat
    ahead = sum(
        each.need for each in wanters if each.name != name and each.served_at <= mine.served_at
    )
    again = tat + (ahead + min(max(asked.least, 1.0), whole)) * seconds - depth - HORIZON - now
    again = min(max(again, MIN_AGAIN), MAX_AGAIN)
    return RateLease(lump_in, lump, first_in, seconds, count, again)


# ---------------------------------------------------------------- slots in flight


def _lease_slots(scope: Scope, name: str, report: Report, now: float) -> float:
    asked = report.slots
    if asked.limit == 0:
        return 0.0
    me = scope.members[name]
    me.want = asked.want
    wanters = [
        Wanter(member.served_at, other, member.want, 1.0)
        for other, member in scope.members.items()
        if member.want > 0 and member.until > now
    ]
    part = divide(asked.limit, wanters, name)
    others = 0.0
    for other, member in scope.members.items():
        if other != name and member.until > now:
            others += member.held
    cap = max(0.0, min(part, asked.limit - others))
    if cap > 0:
        me.served_at = now
    me.held = max(cap, asked.cap, asked.in_flight)  # until its next report acknowledges the cap
    return cap


# ---------------------------------------------------------------- cooldowns


def _gossip(scope: Scope, report: Report, now: float) -> float:
    news = report.cooldown
    if news.kind in (HOLD, LIFT) and now - news.age >= scope.cooldown_at:
        scope.cooldown_at = now - news.age
        scope.cooldown_until = now + news.left if news.kind == HOLD else 0.0
    return max(0.0, scope.cooldown_until - now)


# ---------------------------------------------------------------- money


def _end_period(scope: Scope, at: float, now: float) -> None:
    calendar = CALENDARS[int(-scope.period) - 1] if scope.period < 0 else None
    if calendar is not None:
        scope.ends_at = bounded_end(calendar, scope.ends_at, at)
    if scope.started > 0 and scope.ends_at != NONE and at >= scope.ends_at:
        scope.started, scope.folded = 0.0, 0.0
        if calendar is None:
            scope.ends_at = NONE
        scope.forgotten = scope.asserted = 0.0
        scope.next_loss = now  # lost members without money are forgotten
        for member in scope.members.values():
            member.granted = member.returned = member.spent = 0.0


def _ends_at(period: float, started: float, at: float) -> float:
    if period < 0:
        calendar = CALENDARS[int(-period) - 1]
        return bounded_end(calendar, period_end(calendar, started), at)
    return NONE if period == 0 else started + period


def _is_of_period(scope: Scope, report: Report, at: float, now: float) -> bool:
    """Whether the member is in the present period. A store that lost the period takes that of the member."""
    asked = report.spend
    period = asked.period
    is_on = asked.started > 0 and (period == 0 or asked.ends_in > 0)
    is_forgotten = report.epoch != scope.epoch or now < scope.quiet_until
    if scope.started == 0 and is_on and is_forgotten:
        scope.started = asked.started
        scope.ends_at = at + asked.ends_in if period > 0 else _ends_at(period, asked.started, at)
    return asked.started > 0 and asked.started == scope.started


def _remember(scope: Scope, report: Report, at: float, now: float) -> None:
    """Restore knowledge from a member's first report after a loss.

    If the store lost its data, learn how much all members had spent. If it only gave the member up as lost, take back
    the money that counted as spent: the store had recorded at least that much.
    """
    asked = report.spend
    if asked.limit == 0 or not _is_of_period(scope, report, at, now):
        return
    if report.epoch != scope.epoch:
        scope.forgotten = max(scope.forgotten, asked.noted + asked.elsewhere)
        scope.asserted += asked.noted
    elif scope.quiet_until <= 0:
        recorded = max(asked.granted - asked.returned, asked.noted)
        scope.folded = max(0.0, scope.folded - recorded)


def _account(
    scope: Scope, name: str, report: Report, at: float, now: float, *, quiet: bool
) -> SpendAnswer:
    asked = report.spend
    if asked.limit == 0:
        return SpendAnswer()
    me = scope.members[name]
    if _is_of_period(scope, report, at, now):
        me.granted = max(me.granted, asked.granted)
        me.returned = max(me.returned, asked.returned)
        me.spent = max(me.spent, asked.spent)
    taken = elsewhere = scope.unclaimed
    for other, member in scope.members.items():
        taken += member.money
        if other != name:
            elsewhere += member.spent if member.until > now else member.money
    left = max(0.0, asked.limit - taken)
    lack = asked.needed - (me.granted - me.returned)
    is_set_back = scope.started == 0 and at < scope.ends_at
    if asked.needed > 0 and lack > 0 and not quiet and not is_set_back:
        if scope.started == 0:
            scope.started = EVER if asked.period == 0 else at
            scope.ends_at = _ends_at(asked.period, at, at)
        if lack <= left:
            grant = max(lack, floor(left / CHUNK))
            me.granted += grant
            left -= grant
    ends_in = NONE if scope.ends_at == NONE else scope.ends_at - at
    return SpendAnswer(scope.started, ends_in, me.granted, elsewhere, left)
