"""Merge what several processes report: their `/state`, and their metrics as text for Prometheus."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from stormbreak.telemetry.gauges import FUNCTIONS, GAUGES, MERGE, WORST_FIRST, Rule
from stormbreak.telemetry.labels import MAX_TARGETS
from stormbreak.telemetry.live_state import MAX_DECISIONS, busiest_first
from stormbreak.telemetry.state import Counts, State, TargetSnapshot

# ---------------------------------------------------------------- /state


def merged_state(states: Sequence[State]) -> State:
    """Merge the states of processes that serve the same targets; batches and costs are left out."""
    by_name: dict[str, list[TargetSnapshot]] = {}
    for state in states:
        for target in state.targets:
            by_name.setdefault(target.target, []).append(target)
    targets = sorted((_target(each) for each in by_name.values()), key=busiest_first)
    counts: Counter[str] = Counter()
    for state in states:
        counts.update(asdict(state.counts))
    decisions = sorted(
        (each for state in states for each in state.decisions), key=attrgetter("ago")
    )
    return State(
        pid=os.getpid(),
        watched=max((state.watched for state in states), default=0.0),
        counts=Counts(**counts),
        targets=tuple(targets[:MAX_TARGETS]),
        more_targets=max(0, len(targets) - MAX_TARGETS)
        + max((state.more_targets for state in states), default=0),
        decisions=tuple(decisions[:MAX_DECISIONS]),
    )


def _target(same: Sequence[TargetSnapshot]) -> TargetSnapshot:
    """Merge the snapshots of one target: of circuits the worst, of reasons that of the longest queue."""
    if len(same) == 1:
        return same[0]
    verdicts: Counter[str] = Counter()
    for each in same:
        verdicts.update(each.verdicts)
    circuits = {each.circuit for each in same}
    by_queue = sorted(same, key=lambda each: -each.queued)
    return TargetSnapshot(
        target=same[0].target,
        circuit=next((state for state in WORST_FIRST if state in circuits), None),
        slow=next((each.slow for each in by_queue if each.slow), ""),
        verdicts=dict(verdicts.most_common()),
        ok=tuple(map(sum, zip(*(each.ok for each in same), strict=False))),
        not_ok=tuple(map(sum, zip(*(each.not_ok for each in same), strict=False))),
        **{name: _value(name, same) for name in MERGE if name in _FIELDS},
    )


_FIELDS = frozenset(field.name for field in fields(TargetSnapshot))


def _value(name: str, same: Iterable[TargetSnapshot]) -> Any:
    known = [value for each in same if (value := getattr(each, name)) is not None]
    return FUNCTIONS[MERGE[name]](known) if known else None


# ---------------------------------------------------------------- metrics

_CREATED = "_created"  # of a counter: when it began


_COUNTS = frozenset({"counter", "histogram"})


def counts_of(text: bytes) -> bytes:
    """Return the counters and histograms of a process that has ended."""
    kept, keeps = [], False
    for line in text.decode().splitlines(keepends=True):
        words = line.split()
        if line.startswith("# HELP"):
            keeps = False  # until its type is known
        elif line.startswith("# TYPE"):
            keeps = words[-1] in _COUNTS
        if keeps:
            kept.append(line)
    return "".join(kept).encode()


def merged_metrics(
    texts: Iterable[bytes], rules: Mapping[str, Rule] = MappingProxyType({})
) -> bytes:
    """Merge metrics in Prometheus' text format, as stormbreak's processes write them.

    Samples with the same name and labels become one: their sum, unless `rules` or the gauges of engines (by name, without
    prefix) say otherwise. Comments are those of the first text that has them.
    """
    all_rules: dict[str, Rule] = {name: gauge.across for name, gauge in GAUGES.items()}
    all_rules |= rules
    families: dict[str, _Family] = {}
    for text in texts:
        family = _Family([], {})
        for line in text.decode().splitlines():
            if line.startswith("#"):
                name = line.split()[2]
                family = families.setdefault(name, _Family([], {}))
                if line not in family.comments:
                    family.comments.append(line)
            else:
                sample, _, value = line.rpartition(" ")
                family.samples.setdefault(sample, []).append(float(value))
    lines = []
    for family in families.values():
        lines += family.comments
        lines += [
            f"{name} {_merged(name, known, all_rules)}" for name, known in family.samples.items()
        ]
    return ("\n".join(lines) + "\n").encode()


class _Family(NamedTuple):
    """The comments of a metric, and the values of its samples."""

    comments: list[str]
    samples: dict[str, list[float]]


def _merged(sample: str, values: Iterable[float], rules: Mapping[str, Rule]) -> float:
    name = sample.partition("{")[0]
    if name.endswith(_CREATED):
        return min(values)
    rule: Rule = next((each for known, each in rules.items() if name.endswith(f"_{known}")), "sum")
    return FUNCTIONS[rule](values)
