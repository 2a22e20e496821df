"""Write the estimates from a log as a scenario: with their uncertainty, and what the log cannot tell."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, exp, sqrt
from pathlib import Path
from textwrap import wrap

from stormbreak.errors import ConfigurationError, errors_at
from stormbreak.escape import shown
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.scenario import Fault, Limit, LimitKind, Load, Provider, Scenario, Step
from stormbreak.provider.scenario_file import dump
from stormbreak.storm.access_log import Log
from stormbreak.storm.fit.capacity import QueueFit
from stormbreak.storm.fit.evidence import Evidence, evidence
from stormbreak.storm.fit.limits import FEWEST, Rule

_Z = 1.96  # standard errors of a 95 % interval
_BINS = 60  # of a log, for its rates
_CHANGE = 4.0  # standard deviations that count as a change of the rate
_PATIENCE = 3.0  # attempt timeouts that a call may take, if the log does not say
_MANY_GONE = 0.1  # share of the requests
_WIDTH = 100  # characters of a comment


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A scenario; the findings from the log, and what it cannot tell, a line each."""

    source: str
    scenario: Scenario
    found: tuple[str, ...]
    unknown: tuple[str, ...]

    def text(self) -> str:
        lines = [
            f"{self.source}: {self.found[0]}",
            *self.found[1:],
            "",
            "What the log cannot tell:",
        ]
        folded = [part for line in lines for part in wrap(line, _WIDTH) or [""]]
        for line in self.unknown:
            folded += wrap(f"- {line}", _WIDTH, subsequent_indent="  ")
        return "\n".join(folded)

    def toml(self) -> str:
        """Return the scenario as a file, with all findings as comments."""
        comments = "".join(f"# {line}".rstrip() + "\n" for line in self.text().splitlines())
        return f"# Estimated by `stormbreak storm fit`; intervals are of 95 %.\n{comments}\n{dump(self.scenario)}"


def fit(log: Log, *, name: str | None = None) -> Fitted:
    """Estimate a scenario, named after the log; raise ConfigurationError without latencies, or with too few answers."""
    if all(entry.latency is None for entry in log.entries):
        raise ConfigurationError(
            f"{log.path}: has no latencies: in nginx, add $request_time to the end of log_format, in Apache %D;"
            " in JSON lines or CSV, name the field with --latency-field (`storm run --arrivals` needs none)"
        )
    with errors_at(log.path):
        seen = evidence(log.entries, resolution=1.0 if log.whole_seconds else 0.0)
    rule = seen.rules[0] if seen.rules else None
    load = _load(seen, [entry.at for entry in log.entries])
    scenario = Scenario(
        name=shown(name or Path(log.path).name.partition(".")[0] or "log"),
        description=f"estimated from {shown(Path(log.path).name)}",
        duration=ceil(log.entries[-1].at) + 1.0,
        provider=Provider(
            slots=_slots(seen),
            service=_short(seen.capacity.best.mean),
            variation=_short(seen.capacity.best.variation),
            queue=_room(seen, rule) if rule is not None and rule.kind == "queue" else None,
        ),
        limit=None if rule is None else _limit(rule),
        faults=_faults(seen),
        load=load,
    )
    return Fitted(
        source=shown(Path(log.path).name),
        scenario=scenario,
        found=tuple(_found(seen, scenario, log)),
        unknown=tuple(_unknown(seen, log, load)),
    )


# ---------------------------------------------------------------- values


def _slots(seen: Evidence) -> int:
    """Return the estimated slots, or the largest concurrency if the log does not bound them."""
    bounded = seen.capacity.most_slots is not None
    return seen.capacity.best.slots if bounded else seen.concurrency


def _room(seen: Evidence, rule: Rule) -> int:
    return max(0, round(rule.allowed) - _slots(seen))


def _limit(rule: Rule) -> Limit | None:
    if rule.kind == "window":
        return Limit(kind=LimitKind.WINDOW, requests=max(1.0, rule.allowed), period=rule.period)
    if rule.kind == "bucket":
        per_minute = _short(60 * rule.allowed)
        return Limit(kind=LimitKind.BUCKET, requests=per_minute, burst=_short(rule.burst))
    return None


def _faults(seen: Evidence) -> tuple[Fault, ...]:
    """Return the random failures as faults; outages are left out."""
    known = {kind.value for kind in Kind}
    return tuple(
        Fault(kind=Kind(str(status)), share=_short(share))
        for status, share in seen.shares.items()
        if str(status) in known
    )


def _load(seen: Evidence, times: Sequence[float]) -> Load:
    timeout = seen.timeout or float(ceil(seen.longest))
    rates = _rates(times)
    return Load(
        rate=rates[0][1],
        steps=tuple(Step(at=at, rate=rate) for at, rate in rates[1:]),
        timeout=_short(timeout),
        deadline=_short(_PATIENCE * timeout),
    )


def _rates(times: Sequence[float]) -> list[tuple[float, float]]:
    """Return rates with their start times; join parts of the log whose difference may be chance."""
    length = max(times[-1], 1.0) / _BINS
    rates: list[tuple[float, float]] = []
    begin = count = bins = 0.0
    for place in range(_BINS):
        first, last = bisect_left(times, place * length), bisect_left(times, (place + 1) * length)
        here = last - first
        expected = count / bins if bins else here
        if bins and abs(here - expected) > _CHANGE * sqrt(max(expected, here) * (1 + 1 / bins)):
            rates.append((round(begin, 3), _short(count / (bins * length))))
            begin, count, bins = place * length, 0.0, 0.0
        count += here
        bins += 1
    rates.append((round(begin, 3), _short(count / (bins * length))))
    return rates


def _short(value: float) -> float:
    return float(f"{value:.3g}")


# ---------------------------------------------------------------- what the log tells


def _found(seen: Evidence, scenario: Scenario, log: Log) -> Iterator[str]:
    yield (
        f"{seen.requests:,} requests in {scenario.duration:,.0f} s, {seen.answered:,} answered;"
        f" times are {log.time_is}s of requests."
    )
    yield _service_time(seen.capacity.best)
    yield from _capacity(seen)
    yield from _limits(seen)
    for each in seen.outages:
        what = f"status {each.status}" if each.status else "no answer"
        yield (
            f"Outage from {each.begins:,.1f} to {each.ends:,.1f} s: {what}, {each.failed:,} of"
            f" {each.failed + each.passed:,} requests failed. The scenario leaves it out."
        )
    for status, share in seen.shares.items():
        yield f"Status {status} at random: {share:.2%} of the requests."
    if seen.gone:
        after = "" if seen.timeout is None else f", after {seen.timeout:.3g} s"
        then = "keeps working for them" if seen.capacity.gone_work_on else "drops them"
        yield f"{seen.gone:,} clients gave up{after}; the log fits best if the target {then}."
    if seen.others:
        yield f"{seen.others:,} requests were wrong (other statuses from 400 on): they are left out."


def _service_time(best: QueueFit) -> str:
    count = max(best.served, 2)
    error = _Z * sqrt(best.sigma**2 / count + best.sigma**4 / (2 * (count - 1)))
    spread = _Z * best.sigma / sqrt(2 * count)
    low, high = (sqrt(exp((best.sigma + sign * spread) ** 2) - 1) for sign in (-1, 1))
    return (
        f"Service time: {best.mean:.3g} s ({best.mean * exp(-error):.3g} to {best.mean * exp(error):.3g}),"
        f" coefficient of variation {best.variation:.2f} ({low:.2f} to {high:.2f})."
    )


def _capacity(seen: Evidence) -> Iterator[str]:
    capacity = seen.capacity
    if capacity.most_slots is None or seen.busy is None:
        yield (
            f"Slots: at least {capacity.fewest_slots}; the scenario has {seen.concurrency},"
            " the largest number of concurrent requests."
        )
        return
    busy = seen.busy
    yield (
        f"Slots: {capacity.best.slots} ({capacity.fewest_slots} to {capacity.most_slots}); all were busy for"
        f" {busy.seconds:,.0f} s, between {busy.begins:,.0f} and {busy.ends:,.0f} s, with up to {busy.waiting:,} requests waiting."
    )


def _limits(seen: Evidence) -> Iterator[str]:
    for place, rule in enumerate(seen.rules):
        what = {
            "queue": f"a full queue ({_room(seen, rule):,} waiting requests)",
            "window": f"a limit of {rule.allowed:,.0f} requests in each {rule.period:,.0f} s",
            "bucket": f"a token bucket of {60 * rule.allowed:,.3g} requests a minute ({rule.burst:,.3g} at once)",
        }[rule.kind]
        also = "Or" if place else f"{seen.throttled:,} requests got a 429:"
        windows = f", in {rule.seen} windows" if rule.kind == "window" else ""
        yield f"{also} {what} explains {rule.explained:.0%} of them{windows}."


# ---------------------------------------------------------------- what it cannot tell


def _unknown(seen: Evidence, log: Log, load: Load) -> Iterator[str]:
    yield from _unknown_capacity(seen)
    if seen.throttled and not seen.rules:
        yield (
            f"Why {seen.throttled:,} requests got a 429: no queue, window or bucket explains nine of ten of at least"
            f" {FEWEST}. Other clients may share the limit, it may count tokens or refused requests, or the target"
            " refuses at random. The scenario has no limit."
        )
    elif not any(rule.kind != "queue" for rule in seen.rules):
        yield (
            "A request limit: none was reached. The target took up to"
            f" {seen.busiest_minute:,} requests in a minute."
        )
    yield "Token limits: a log has no tokens."
    if not seen.rules or seen.rules[0].kind != "queue":
        most = seen.busy.waiting if seen.busy else 0
        yield f"The room of the queue: it was never full, with up to {most:,} requests waiting. The scenario has no bound."
    if seen.outages:
        yield (
            "Why the outage began and ended, and what the target could have served meanwhile. Calls that clients"
            " did not make because of it are missing."
        )
    if seen.timeout is None:
        yield (
            f"The timeout of an attempt: no group of clients gave up after the same time. {ceil(seen.longest)} s is"
            " the longest answer, rounded up."
        )
    yield (
        f"Your deadline and the number of your processes: the scenario has {load.deadline:g} s and {load.processes}."
        " Write yours into its [load]."
    )
    yield "Whether requests are first attempts or retries."
    yield "Requests of other clients of the same target, which also take slots."
    if log.whole_seconds:
        yield (
            "Times within a second: the log has whole seconds. Slots and their bounds may be slightly too high, by"
            " a third with services below a second. Log milliseconds for better estimates ($msec in nginx)."
        )
    if all(entry.status is None for entry in log.entries):
        yield "Failures: the log has no statuses, and each line counts as answered."


def _unknown_capacity(seen: Evidence) -> Iterator[str]:
    if seen.capacity.most_slots is None:
        yield (
            "The slots: requests never waited for one, so there may be any number from"
            f" {seen.capacity.fewest_slots} on. With more load, the scenario is the worst case."
        )
    else:
        yield "Whether the target had more slots while not all were busy."
    if seen.gone > _MANY_GONE * (seen.answered + seen.gone):
        yield (
            f"How long the {seen.gone:,} requests whose clients gave up would have taken: with this many, service time"
            " and slots are less certain than their intervals say."
        )
    if seen.used < seen.answered + seen.gone:
        yield f"Capacity outside of the {seen.used:,} requests around the busiest moment, from which it is estimated."
    if seen.drift is not None:
        (fast, *fast_at), (slow, *slow_at) = seen.drift
        yield (
            "One capacity for the whole log: the median service time is"
            f" {fast:.3g} s from {fast_at[0]:,.0f} to {fast_at[1]:,.0f} s, and"
            f" {slow:.3g} s from {slow_at[0]:,.0f} to {slow_at[1]:,.0f} s. Either it or the slots changed."
            " Fit each part separately."
        )
