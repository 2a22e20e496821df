"""The tables of docs/background/published.md."""

import platform
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from published import contention, retries
from published.means import Mean, apart
from published.study import FEW_RATES, RATES, RUNS, Pair, Sides, Study


def page(study: Study) -> str:
    """All tables, and when they were made."""
    made = f"Made on {datetime.now(UTC).date().isoformat()} with Python {platform.python_version()}"
    parts = [
        [f"{made}, by `make published`. After a mean stands its standard error."],
        ["### Contention: calls", "", f"Ours / published, {RUNS['contention']} runs each; in brackets by how many standard errors they are apart.", "", *_contended(study, 0)],
        ["### Contention: milliseconds", "", "The same.", "", *_contended(study, 1)],
        ["### Retries: success", "", f"Percent of the calls, ours / published, {RUNS['retries']} runs each.", "", *_retried(study, 0)],
        ["### Retries: load", "", "Percent of the load without retries, ours / published.", "", *_retried(study, 1)],
        ["### Retries: how many clients", "", "Load in percent of that without retries when as many calls come from 10, 100 or 1,000 clients: ours / published.", "", *_counted(study)],
    ]  # fmt: skip
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _contended(study: Study, place: int) -> Iterator[str]:
    yield from _head("clients:", [str(clients) for clients in contention.CLIENTS])
    for name in (*contention.STRATEGIES, *contention.MORE):
        cells = (_beside(study.contention[name, n], place) for n in contention.CLIENTS)
        yield _row(name, cells)


def _beside(sides: Sides, place: int) -> str:
    assert sides.bare is not None
    ours, bare = sides.ours[place], sides.bare[place]
    return f"{ours:,.0f} / {bare:,.0f} ({apart(ours, bare):.1f})"


def _retried(study: Study, place: int) -> Iterator[str]:
    yield from _head("strategy", [f"{100 * rate:g} % fail" for rate in RATES])
    for name in (*retries.STRATEGIES, *retries.MORE):
        yield _row(name, (_percent(study.retries[name, rate], place) for rate in RATES))


def _counted(study: Study) -> Iterator[str]:
    yield from _head("strategy and clients", [f"{100 * rate:g} % fail" for rate in FEW_RATES])
    for name, clients in dict.fromkeys((name, clients) for name, _, clients in study.clients):
        cells = (_percent(study.clients[name, rate, clients], 1) for rate in FEW_RATES)
        yield _row(f"{name}, {clients:,}", cells)


def _percent(sides: Sides, place: int) -> str:
    return " / ".join(_one(pair, place) for pair in sides if pair is not None)


def _one(pair: Pair, place: int) -> str:
    mean: Mean = pair[place]
    return f"{mean.value:.1f}"


def _head(first: str, columns: Sequence[str]) -> Iterator[str]:
    yield _row(first, columns)
    yield "|---" * (1 + len(columns)) + "|"


def _row(first: str, cells: Iterable[str]) -> str:
    return f"| {first} | {' | '.join(cells)} |"
