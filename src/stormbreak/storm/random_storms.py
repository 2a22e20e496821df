"""Random storms for surveys. Pure; the same seed and number give the same storm.

A draw starts from a random site: a provider, and a fleet of clients with its traffic. A family then adds its faults.
Sizes are chosen so that a draw has at most `MAX_CALLS` calls and takes a few seconds to simulate. The ranges are wide on
purpose: nobody knows the next incident.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TypeVar

from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import quoted
from stormbreak.provider.chance import mix, uniform
from stormbreak.provider.fault_kinds import Kind, WaitForm
from stormbreak.provider.scenario import (
    BackgroundTraffic,
    Burst,
    Fault,
    Limit,
    LimitKind,
    Load,
    Provider,
    Scenario,
    Step,
)

MAX_CALLS = 6_000
"""Target number of calls of a draw: a policy then takes a second or two. Herds and flapping may double it."""

_SMALL, _LARGE = 0.2, 2.0
FLEETS = (f"under {_SMALL:g}", f"{_SMALL:g} to {_LARGE:g}", f"{_LARGE:g} and more")
"""Sizes of a process in calls a second, in calm. A batch has all its rows in one process, of the largest size."""

BATCH = "batch"
_LEAD = (30.0, 60.0)  # seconds of calm before the faults
_TAIL = (60.0, 120.0)  # and after it
_MAX_BATCH = 200.0  # seconds at full capacity
_DRIFT = 6  # steps
_SENDS = 5_000.0  # calls in a second that one program makes
T = TypeVar("T")

_FORMS = (WaitForm.SECONDS, WaitForm.MS, WaitForm.BARE)
_FAST = (Kind.S500, Kind.S502, Kind.S503, Kind.S529)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomStorm:
    """One random storm, the `number`-th of its seed."""

    number: int
    family: str
    scenario: Scenario

    @property
    def fleet(self) -> str:
        """The size of its processes, one of `FLEETS`."""
        load = self.scenario.load
        assert load is not None
        each = load.rate / load.processes
        if load.preset == BATCH or each >= _LARGE:
            return FLEETS[2]
        return FLEETS[0] if each < _SMALL else FLEETS[1]


class _Chance:
    """The random numbers of one draw."""

    def __init__(self, seed: int, number: int) -> None:
        self._bits = mix(mix(seed) + number)
        self._drawn = 0

    def between(self, low: float, high: float) -> float:
        """Draw a number, uniformly."""
        self._drawn += 1
        return low + (high - low) * uniform(mix(self._bits + self._drawn))

    def scale(self, low: float, high: float) -> float:
        """Draw a number, uniformly by order of magnitude."""
        return float(low * (high / low) ** self.between(0.0, 1.0))

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.between(0.0, len(options)))]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Site:
    """Provider, clients and the time of the faults; `capacity` is in calls a second."""

    provider: Provider
    load: Load
    at: float
    length: float
    tail: float
    faults: tuple[Fault, ...] = ()
    limit: Limit | None = None
    background_traffic: BackgroundTraffic | None = None

    @property
    def until(self) -> float:
        return self.at + self.length

    @property
    def capacity(self) -> float:
        assert self.provider.slots is not None
        return self.provider.slots / self.provider.service

    def with_faults(self, *faults: Fault) -> "_Site":
        return replace(self, faults=self.faults + faults)

    def with_fault(self, kind: Kind, share: float = 1.0, **more: float | None) -> "_Site":
        """Return the site with a fault of `kind` from `at` to `until`."""
        return self.with_faults(
            Fault(kind=kind, at=self.at, until=self.until, share=_short(share), **more)  # type: ignore[arg-type]
        )

    def with_length(self, length: float) -> "_Site":
        return replace(self, length=_short(max(1.0, min(self.length, length))))

    def with_traffic(self, factor: float, ramp: float = 0.0) -> "_Site":
        """Return the site with `factor` times its traffic from `at` to `until`."""
        rate = self.load.rate
        room = (MAX_CALLS - rate * (self.at + self.tail)) / (rate * factor)
        site = self.with_length(max(5.0, room))
        ramp = _short(min(ramp, site.length / 3))
        steps = (
            Step(at=site.at, rate=_short(rate * factor), ramp=ramp),
            Step(at=_short(site.until), rate=rate, ramp=ramp),
        )
        return replace(site, load=replace(site.load, steps=steps))


def draw(
    number: int, *, seed: int, families: Sequence[str] = (), preset: str = "interactive"
) -> RandomStorm:
    """Draw the storm with that number, from 0. `families` are names in `FAMILIES`; empty: all.

    All rows of a "batch" arrive at once, and its faults do not end. Raises ConfigurationError for an unknown family.
    """
    known = families_of(preset)
    names = tuple(families) or known
    unknown = [name for name in names if name not in known]
    if unknown:
        kind = "batches" if preset == BATCH else "storms"
        raise ConfigurationError(
            f"no family of {kind} is named {quoted(unknown[0])}; families: {', '.join(known)}"
        )
    family = names[number % len(names)]
    chance = _Chance(seed, number)
    if preset == BATCH:
        site = FAMILIES[family](chance, _batch(chance))
        load = replace(site.load, rate=0.0, steps=())  # the rows are the only traffic
    else:
        site = FAMILIES[family](chance, _site(chance))
        load = replace(site.load, trigger_at=site.at, trigger_until=_short(site.until))
    scenario = Scenario(
        name=f"draw-{seed}-{number}",
        description=f"{family}: {_describe(site)}",
        duration=float(ceil(_short(site.until) + site.tail)),
        provider=site.provider,
        limit=site.limit,
        faults=site.faults,
        background_traffic=site.background_traffic,
        load=load,
    )
    return RandomStorm(number=number, family=family, scenario=scenario)


def families_of(preset: str) -> tuple[str, ...]:
    """Return the families of a survey of `preset`: traffic never changes in a batch."""
    return tuple(name for name in FAMILIES if preset != BATCH or name not in _OF_TRAFFIC)


def _describe(site: _Site) -> str:
    load, provider = site.load, site.provider
    traffic = (
        f"{load.bursts[0].calls:,} rows at once"
        if load.preset == BATCH
        else f"{load.rate:g} calls/s, {load.processes} process{'es' * (load.processes > 1)}"
    )
    return (
        f"{traffic}, {provider.slots} slots of {provider.service:g} s, timeout {load.timeout:g} s,"
        f" deadline {load.deadline:g} s, faults from {site.at:g} to {site.until:.0f} s"
    )


def _site(chance: _Chance) -> _Site:
    """A fleet of clients and its provider, before any fault."""
    service = _short(chance.scale(0.2, 10.0))
    use = chance.between(0.3, 0.9)
    at, length, tail = chance.between(*_LEAD), chance.scale(10.0, 300.0), chance.between(*_TAIL)
    max_slots = MAX_CALLS * service / use / (at + length + tail)
    slots = int(max(10.0, min(chance.scale(10.0, 400.0), max_slots)))
    rate = _short(use * slots / service)
    timeout = _short(service * chance.between(3.0, 10.0))
    provider = _provider(chance, slots, service)
    processes = int(chance.scale(1.0, 500.0))
    deadline = _short(timeout * chance.between(1.5, 10.0))
    return _Site(
        provider=provider,
        load=Load(rate=rate, processes=processes, timeout=timeout, deadline=deadline),
        at=float(int(at)),
        length=_short(max(10.0, min(length, MAX_CALLS / rate - at - tail))),
        tail=tail,
    )


def _provider(chance: _Chance, slots: int, service: float) -> Provider:
    return Provider(
        slots=slots,
        service=service,
        variation=_short(chance.between(0.2, 1.5)),
        queue=int(slots * chance.scale(0.5, 20.0)),
        max_requests_per_second=_short(slots / service * chance.scale(8.0, 60.0)),
    )


def _batch(chance: _Chance) -> _Site:
    """All rows of a batch at once."""
    site = _site(chance)
    slots = int(chance.scale(30.0, 400.0))
    service = _short(chance.scale(0.2, 5.0))
    rows = int(min(chance.scale(200.0, 5_000.0), max(200.0, _MAX_BATCH * slots / service)))
    load = Load(
        rate=slots / service,
        processes=1,
        timeout=_short(service * chance.between(4.0, 12.0)),
        deadline=3_000.0,
        preset=BATCH,
        bursts=(Burst(at=0.0, calls=rows),),
    )
    length = _short(chance.scale(10.0, 600.0))
    provider = _provider(chance, slots, service)
    return replace(site, provider=provider, load=load, at=0.0, length=length, tail=600.0)


# ---------------------------------------------------------------- families


def _spike(chance: _Chance, site: _Site) -> _Site:
    return site.with_length(60.0).with_traffic(chance.scale(2.0, 10.0))


def _dip(chance: _Chance, site: _Site) -> _Site:
    return site.with_fault(Kind.CAPACITY, factor=_short(chance.between(0.05, 0.6)))


def _slow(chance: _Chance, site: _Site) -> _Site:
    ramp = _short(chance.between(0.0, site.length / 2))
    return site.with_fault(Kind.SERVICE, factor=_short(chance.scale(1.5, 6.0)), ramp=ramp)


def _slow_spare(chance: _Chance, site: _Site) -> _Site:
    """Answers take longer although slots are free: all at once, in steps, or a share of them."""
    service, factor = site.provider.service, chance.scale(1.5, 6.0)
    length = chance.scale(60.0, 300.0)
    rate = _short(min(site.load.rate, MAX_CALLS / (site.at + length + site.tail)))
    is_batch = site.load.preset == BATCH  # its rows are in flight at once, and may take long
    busy = site.provider.slots if is_batch else rate * service * factor
    assert busy is not None
    slots = max(10, ceil(busy * chance.scale(1.5, 15.0)))
    timeout = _short(service * factor * chance.between(1.5, 4.0))
    deadline = _short(timeout * chance.between(1.2, 3.0))
    site = replace(
        site,
        length=_short(length),
        provider=replace(site.provider, slots=slots),
        load=replace(
            site.load,
            rate=rate,
            timeout=timeout,
            deadline=site.load.deadline if is_batch else deadline,
        ),
    )
    ramp = _short(chance.between(0.0, site.length / 2))
    match chance.pick(("at once", "in steps", "a share")):
        case "at once":
            return site.with_fault(Kind.SERVICE, factor=_short(factor), ramp=ramp)
        case "in steps":
            return site.with_faults(*_drift(site, factor, ramp))
        case _:
            return _more_long_answers(chance, site, service * factor)


def _drift(site: _Site, factor: float, ramp: float) -> list[Fault]:
    """Service times that grow to `factor` times in `_DRIFT` equal steps, each a fault; the last ends in a ramp."""
    ends = [_short(site.at + site.length * (step + 1) / _DRIFT) for step in range(_DRIFT)]
    ends[-1] = _short(site.until)
    return [
        Fault(
            kind=Kind.SERVICE,
            at=at,
            until=until,
            factor=_short(factor ** ((step + 1) / _DRIFT)),
            ramp=ramp if step == _DRIFT - 1 else 0.0,
        )
        for step, (at, until) in enumerate(zip([site.at, *ends], ends, strict=False))
    ]


def _more_long_answers(chance: _Chance, site: _Site, added: float) -> _Site:
    """Two models behind one target, or requests of two sizes: a share of the answers takes `added` s more; it grows."""
    before, share = chance.between(0.0, 0.3), chance.between(0.2, 0.7)
    long = Fault(kind=Kind.SLOW_HEADERS, share=_short(before), added_latency=_short(added))
    more = replace(long, share=_short(share), at=site.at, until=_short(site.until))
    return site.with_faults(long, more)


def _down(chance: _Chance, site: _Site) -> _Site:
    site = site.with_length(chance.scale(10.0, 120.0)).with_fault(Kind.DOWN)
    return _back_slowly(chance, site) if chance.between(0.0, 1.0) < 0.5 else site


def _blackhole(chance: _Chance, site: _Site) -> _Site:
    return site.with_length(chance.scale(10.0, 120.0)).with_fault(Kind.HANG)


def _hang_share(chance: _Chance, site: _Site) -> _Site:
    return site.with_fault(Kind.HANG, chance.between(0.1, 0.7))


def _random_refusals(chance: _Chance, site: _Site) -> _Site:
    return site.with_fault(chance.pick(_FAST), chance.between(0.1, 0.75))


def _cut(chance: _Chance, site: _Site) -> _Site:
    return site.with_fault(chance.pick((Kind.RESET, Kind.CUT_BODY)), chance.between(0.1, 0.7))


def _throttled(chance: _Chance, site: _Site) -> _Site:
    named = chance.pick((None, None, chance.scale(0.3, 15.0)))
    share = chance.between(0.1, 0.7)
    return site.with_fault(Kind.S429, share, retry_after=None if named is None else _short(named))


def _flapping(chance: _Chance, site: _Site) -> _Site:
    dead, alive = chance.scale(3.0, 20.0), chance.scale(5.0, 60.0)
    times = max(2, min(6, int(300.0 / (dead + alive))))
    kind = chance.pick((Kind.DOWN, Kind.DOWN, Kind.HANG))
    calls = site.load.rate * (site.at + times * (dead + alive) + site.tail)
    if calls > 2 * MAX_CALLS:
        dead, alive, times = min(dead, 10.0), min(alive, 20.0), 2
    parts = [
        Fault(
            kind=kind,
            at=_short(site.at + each * (dead + alive)),
            until=_short(site.at + each * (dead + alive) + dead),
        )
        for each in range(times)
    ]
    return replace(site, length=_short(times * (dead + alive))).with_faults(*parts)


def _mixed(chance: _Chance, site: _Site) -> _Site:
    kinds = (*_FAST, Kind.S429, Kind.RESET, Kind.CUT_BODY, Kind.HANG, Kind.S504, Kind.INVALID_JSON)
    total = chance.between(0.2, 0.75)
    count = int(chance.between(3.0, 7.0))
    weights = [chance.between(0.2, 1.0) for _ in range(count)]
    for weight in weights:
        site = site.with_fault(chance.pick(kinds), total * weight / sum(weights))
    return site


def _random_overload_answers(chance: _Chance, site: _Site) -> _Site:
    share = chance.between(0.05, 0.35)
    site = site.with_fault(Kind.CAPACITY, factor=_short(chance.between(0.3, 0.9)))
    return site.with_fault(chance.pick((Kind.S503, Kind.S529, Kind.S500, Kind.RESET)), share)


def _request_limit(chance: _Chance, site: _Site) -> _Site:
    kind = chance.pick((LimitKind.WINDOW, LimitKind.BUCKET))
    per = chance.pick((10.0, 60.0))
    bucket = kind is LimitKind.BUCKET
    spare, times = chance.between(1.05, 1.5), chance.between(1.2, 2.5)
    site = _of_limit(chance, site, times=spare * times)
    allowed = site.load.rate * per * spare
    limit = Limit(
        kind=kind,
        requests=_short(max(1.0, allowed)),
        period=per,
        burst=_short(max(1.0, allowed * chance.between(0.02, 0.3))) if bucket else None,
        reject_cost=_short(chance.pick((0.0, 0.2, 1.0))),
        retry_after_form=chance.pick(_FORMS),
    )
    return replace(site, limit=limit).with_traffic(spare * times)


def _token_limit(chance: _Chance, site: _Site) -> _Site:
    tokens = float(int(chance.scale(300.0, 20_000.0)))
    spare, times = chance.between(1.05, 1.5), chance.between(1.2, 2.5)
    site = _of_limit(chance, site, times=spare * times)
    limit = Limit(
        kind=LimitKind.WINDOW,
        tokens=_short(site.load.rate * tokens * 60.0 * spare),
        retry_after_form=chance.pick(_FORMS),
    )
    load = replace(site.load, tokens=tokens, tokens_variation=_short(chance.between(0.2, 1.2)))
    return replace(site, limit=limit, load=load).with_traffic(spare * times)


def _of_limit(chance: _Chance, site: _Site, *, times: float) -> _Site:
    """Return the site with spare slots, and with traffic low enough to stay that busy for more than a minute."""
    length = chance.between(70.0, 150.0)
    rate = min(site.load.rate, MAX_CALLS / (site.at + times * length + site.tail))
    assert site.provider.slots is not None
    return replace(
        site,
        length=_short(length),
        load=replace(site.load, rate=_short(rate)),
        provider=replace(site.provider, slots=site.provider.slots * 5),
    )


def _herd(chance: _Chance, site: _Site) -> _Site:
    calls = max(1, int(min(MAX_CALLS / 2, site.capacity * chance.scale(2.0, 40.0))))
    every = _short(chance.between(30.0, 90.0))
    beside = site.load.rate * (site.at + site.tail)
    room = (2 * MAX_CALLS - beside) / (calls + site.load.rate * every)
    times = int(max(1.0, min(4.0, room)))
    load = replace(site.load, bursts=(Burst(at=site.at, calls=calls, repeat=times, every=every),))
    length = max(site.with_length(60.0).length, every * (times - 0.5))
    return replace(site, load=load, length=_short(length))


def _ramp(chance: _Chance, site: _Site) -> _Site:
    load = site.capacity * chance.between(1.2, 2.5)
    return site.with_traffic(load / site.load.rate, ramp=chance.between(20.0, 120.0))


def _sustained_overload(chance: _Chance, site: _Site) -> _Site:
    """Overload a target with a bounded queue for minutes, from the first second or after a calm."""
    in_calm = site.load.rate / site.capacity
    use, length = chance.scale(1.1, 4.0), chance.scale(60.0, 600.0)
    at = chance.pick((0.0, site.at))
    max_capacity = MAX_CALLS / (in_calm * (at + site.tail) + use * length)
    service = _short(max(site.provider.service, 10.0 / max_capacity))
    slots = int(max(10.0, min(chance.scale(10.0, 400.0), max_capacity * service)))
    timeout = _short(service * chance.between(3.0, 10.0))
    load = replace(
        site.load,
        rate=_short(in_calm * slots / service),
        processes=int(chance.scale(1.0, 60.0)),
        timeout=timeout,
        deadline=_short(timeout * chance.scale(1.2, 10.0)),
    )
    provider = replace(_provider(chance, slots, service), queue=int(slots * chance.scale(1.0, 8.0)))
    site = replace(site, at=at, length=_short(length), provider=provider, load=load)
    return site.with_traffic(use / in_calm)


def _burst(chance: _Chance, site: _Site) -> _Site:
    """A program sends many calls at once, mostly at its start: more than can be served before they time out."""
    slots = int(chance.scale(2.0, 60.0))
    service = site.provider.service
    timeout = _short(service * chance.between(3.0, 10.0))
    deadline = _short(timeout * chance.between(1.5, 10.0))
    calls = max(3.0, min(slots * chance.scale(0.5, 2 * deadline / service), MAX_CALLS / 2))
    at = chance.pick((0.0, 0.0, site.at))
    rate = _short(site.load.rate / site.capacity * slots / service) if at else 0.0
    load = replace(
        site.load,
        rate=rate,
        steps=(Step(at=at, rate=_SENDS), Step(at=round(at + calls / _SENDS, 4), rate=rate)),
        processes=chance.pick((1, 1, 1, int(chance.scale(2.0, 20.0)))),
        timeout=timeout,
        deadline=deadline,
    )
    provider = replace(
        _provider(chance, slots, service), queue=int(slots * chance.scale(1.0, 50.0))
    )
    length = min(deadline, 300.0)
    site = replace(site, at=at, length=_short(length), provider=provider, load=load)
    trouble = chance.pick((None, None, _slow, _random_refusals))
    return site if trouble is None else trouble(chance, site)


def _two(chance: _Chance, site: _Site) -> _Site:
    """One fault, a pause, another one."""
    share = chance.between(0.3, 0.6)
    first = replace(site, length=_short(max(5.0, site.length * share)))
    pause = chance.between(0.0, 0.3) * site.length
    at = max(first.until, _short(first.until + pause))
    second = replace(site, at=at, length=_short(max(5.0, site.length - first.length - pause)))
    makes = (
        _dip, _slow, _down, _hang_share, _random_refusals, _cut, _throttled, _random_overload_answers,
    )  # fmt: skip
    one, two = chance.pick(makes)(chance, first), chance.pick(makes)(chance, second)
    length = _short(two.until - site.at)
    return replace(site, length=length, faults=one.faults + two.faults)


def _zone_loss(chance: _Chance, site: _Site) -> _Site:
    """A share of the slots dies: requests to them hang or are reset until the balancer notices."""
    share = chance.between(0.15, 0.6)
    noticed = _short(min(chance.scale(5.0, 40.0), site.length * 0.8))
    kind = chance.pick((Kind.HANG, Kind.RESET, Kind.S502))
    lost = Fault(kind=kind, at=site.at, until=_short(site.at + noticed), share=_short(share))
    return site.with_fault(Kind.CAPACITY, factor=_short(1.0 - share)).with_faults(lost)


def _background_retries(chance: _Chance, site: _Site) -> _Site:
    """Other clients hit the same provider and retry at once, ignoring Retry-After; then capacity falls."""
    part = chance.between(0.3, 0.7)
    rate = site.load.rate
    background_traffic = BackgroundTraffic(
        rate=_short(rate * part),
        retries=int(chance.between(2.0, 6.0)),
        retry_delay=_short(chance.scale(0.05, 1.0)),
        timeout=site.load.timeout,
    )
    load = replace(site.load, rate=_short(rate * (1 - part)), keep_background_traffic=True)
    site = replace(site, background_traffic=background_traffic, load=load)
    return site.with_fault(
        Kind.CAPACITY, factor=_short(rate / site.capacity * chance.between(0.3, 1.0))
    )


def _back_slowly(chance: _Chance, site: _Site) -> _Site:
    """After the faults capacity returns linearly."""
    end = _short(site.until)
    ramp = _short(chance.between(5.0, 45.0))
    return site.with_faults(Fault(kind=Kind.CAPACITY, at=site.at, until=end, factor=0.1, ramp=ramp))


FAMILIES: Mapping[str, Callable[[_Chance, _Site], _Site]] = {
    "spike": _spike,
    "dip": _dip,
    "slow": _slow,
    "down": _down,
    "blackhole": _blackhole,
    "hang_share": _hang_share,
    "luck": _random_refusals,
    "cut": _cut,
    "throttled": _throttled,
    "flapping": _flapping,
    "mixed": _mixed,
    "overload_luck": _random_overload_answers,
    "request_limit": _request_limit,
    "token_limit": _token_limit,
    "herd": _herd,
    "ramp": _ramp,
    "two": _two,
    "zone_loss": _zone_loss,
    "crowd": _background_retries,
    "slow_spare": _slow_spare,
    "sustained_overload": _sustained_overload,
    "burst": _burst,
}
"""The function of each family, by name: it makes a storm of a site."""

_OF_TRAFFIC = frozenset({"spike", "herd", "ramp", "sustained_overload", "burst"})


def _short(value: float) -> float:
    """Round to three digits, for readable files."""
    return float(f"{value:.3g}")
