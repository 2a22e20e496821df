"""The counters of the gateway, as text for Prometheus. It has no keys and no prompts."""

import logging
import re
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal

from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.gateway.keys import ClientKey
from stormbreak.gateway.logs import ACCESS_LOG, LOG, RequestRecord
from stormbreak.gateway.usage_ledger import SpentBy

_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_BOUNDS = (*_BUCKETS, float("inf"))
_PREFIX = "stormbreak_gateway"
_HELP: Mapping[str, tuple[str, str]] = {
    "requests_total": ("counter", "Requests by client key, endpoint and status."),
    "outcomes_total": (
        "counter",
        "How requests ended: ok, a verdict, broken, drained, left or refused.",
    ),
    "request_seconds": ("histogram", "Time from a request to the end of its answer."),
    "workers": ("gauge", "Processes that serve clients."),
    "connections": ("gauge", "Open connections of clients."),
    "in_flight": ("gauge", "Requests that are being answered."),
    "held_bytes": ("gauge", "Bytes of requests that are held."),
    "draining": ("gauge", "1 while the gateway is shutting down, else 0."),
    "reloads_total": ("counter", "Readings of the settings file, by result."),
    "key_spent_usd": ("gauge", "US dollars spent by keys with a spend limit, in its period."),
    "key_limit_usd": ("gauge", "Spend limits of keys in US dollars."),
    "tenant_spent_usd": ("gauge", "US dollars spent by tenants with a spend limit, in its period."),
    "tenant_limit_usd": ("gauge", "Spend limits of tenants in US dollars."),
}
GAUGE_NAMES = ("workers", "connections", "in_flight", "held_bytes", "draining")
"""Those without labels."""

_MONEY: Mapping[str, str] = {
    "spent_usd_total": "US dollars of attempts with a reported usage, since the start.",
    "unknown_usd_total": "The most that attempts without a usage can have cost, in US dollars.",
}
_LIMITS: Mapping[str, str] = {
    "policy_spent_usd": "US dollars spent or reserved under the spend limits of policies, in their periods.",
    "policy_limit_usd": "Spend limits of policies in US dollars, by limit and period: seconds, hour, day or month.",
}
_OUTSIDE = re.compile(r"\W", re.ASCII)  # characters that a Prometheus label name cannot have
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class GatewayMetrics:
    """Counts requests, on the event loop; `text` may be called from any thread.

    `write_line` writes a line to the access log.
    """

    def __init__(self, write_line: Callable[[str], None] = ACCESS_LOG.info) -> None:
        self._write_line = write_line
        self.access_log = True
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._seconds: Counter[float] = Counter()  # requests by the upper bound of their bucket
        self._sum = 0.0
        self.reloads: Counter[str] = Counter({"ok": 0, "failed": 0})

    def reloaded(self, error: Exception | None) -> None:
        self.reloads["ok" if error is None else "failed"] += 1
        if error is None:
            LOG.info("the settings were read again")
        else:
            LOG.warning("the settings stay as they were: %s", error)

    def ended(self, record: RequestRecord) -> None:
        """Count a request that has ended, and log it."""
        took = time.monotonic() - record.began
        self._requests[record.key, record.endpoint, record.status] += 1
        self._outcomes[record.outcome] += 1
        self._seconds[_BOUNDS[bisect_left(_BUCKETS, took)]] += 1
        self._sum += took
        if self.access_log and ACCESS_LOG.isEnabledFor(logging.INFO):
            self._write_line(record.line(took))

    def text(self, gauges: Mapping[str, float], spent: Mapping[str, tuple[str, str]]) -> bytes:
        """Write all metrics; `gauges` have no labels, `spent` has dollars and limits of keys and tenants, by title."""
        lines: list[str] = []
        for name, (kind, meaning) in _HELP.items():
            lines += _head(name, kind, meaning)
            lines += [f"{_PREFIX}_{line}" for line in self._samples(name, gauges, spent)]
        return ("\n".join(lines) + "\n").encode()

    def _samples(
        self, name: str, gauges: Mapping[str, float], spent: Mapping[str, tuple[str, str]]
    ) -> Iterator[str]:
        match name:
            case "requests_total":
                for (key, endpoint, status), count in tuple(self._requests.items()):
                    labels = f'key="{key}",endpoint="{endpoint}",status="{status}"'
                    yield f"{name}{{{labels}}} {count}"
            case "outcomes_total":
                for outcome, count in tuple(self._outcomes.items()):
                    yield f'{name}{{outcome="{outcome}"}} {count}'
            case "request_seconds":
                yield from self._histogram(name)
            case "reloads_total":
                for result, count in tuple(self.reloads.items()):
                    yield f'{name}{{result="{result}"}} {count}'
            case "key_spent_usd" | "key_limit_usd" | "tenant_spent_usd" | "tenant_limit_usd":
                yield from _dollars(name, spent)
            case _:
                yield f"{name} {gauges[name]}"

    def _histogram(self, name: str) -> Iterator[str]:
        total = 0
        for bound in _BOUNDS:
            total += self._seconds[bound]
            yield f'{name}_bucket{{le="{"+Inf" if bound == float("inf") else bound}"}} {total}'
        yield f"{name}_sum {self._sum}"
        yield f"{name}_count {total}"


def _dollars(name: str, spent: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    """Write the spending of holders of spend limits, or their limits."""
    kind, _, what = name.partition("_")
    for title, dollars in spent.items():
        of, _, holder = title.partition(" ")
        if of == kind:
            yield f'{name}{{{kind}="{holder}"}} {dollars[what == "limit_usd"]}'


def money_text(
    spent: Mapping[SpentBy, Sequence[Decimal]],
    keys: Iterable[ClientKey],
    limits: Mapping[SpendPolicy, tuple[Decimal, Decimal]],
) -> bytes:
    """Write the dollars of keys by target, the dollars under the `limits` of policies, and the labels of each key.

    The settings bound the number of keys, `SpentBy` bounds the number of targets.
    """
    lines: list[str] = []
    for place, (name, meaning) in enumerate(_MONEY.items()):
        lines += _head(name, "counter", meaning)
        for by, dollars in tuple(spent.items()):
            lines.append(_sample(name, by._asdict(), dollars[place]))
    for place, (name, meaning) in enumerate(_LIMITS.items()):
        lines += _head(name, "gauge", meaning)
        named = {
            (
                f"{limit.max_usd:g}",
                "none" if limit.period is None else limit.per.removesuffix(" s"),
            ): dollars
            for limit, dollars in limits.items()
        }
        for (usd, period), dollars in named.items():
            lines.append(_sample(name, {"limit": usd, "period": period}, dollars[place]))
    lines += _head("key_info", "gauge", "Keys with their tenants and labels; always 1.")
    for key in keys:
        labels = {f"label_{_OUTSIDE.sub('_', name)}": text for name, text in key.scope.labels}
        names = {"key": key.name, "tenant": key.scope.tenant or ""}
        lines.append(_sample("key_info", names | labels, 1))
    return ("\n".join(lines) + "\n").encode()


def _head(name: str, kind: str, meaning: str) -> tuple[str, str]:
    return f"# HELP {_PREFIX}_{name} {meaning}", f"# TYPE {_PREFIX}_{name} {kind}"


def _sample(name: str, labels: Mapping[str, str], value: object) -> str:
    pairs = (f'{label}="{text.translate(_ESCAPED)}"' for label, text in labels.items())
    return f"{_PREFIX}_{name}{{{','.join(pairs)}}} {value}"
