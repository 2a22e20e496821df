"""Merge the metrics of several processes, as text for Prometheus."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from stormbreak.telemetry.gauges import FUNCTIONS, GAUGES, Rule

_CREATED = "_created"  # of a counter: the time when it began


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

    Samples with the same name and labels become one: their sum, unless `rules` or the gauges of engines (by name,
    without prefix) say otherwise. Comments are those of the first text that has them.
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
