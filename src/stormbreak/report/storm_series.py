"""Runs of a storm as chart data: one line for each policy, with the spread over seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from types import MappingProxyType

from stormbreak.escape import escape_name
from stormbreak.provider.scenario import Scenario
from stormbreak.report.chart import Line, Panel, clock_for, mean, means, stride
from stormbreak.report.theme import STROKES
from stormbreak.storm import Result
from stormbreak.storm.measures import Measures, average
from stormbreak.storm.result import Series

Pick = Callable[[Series], Sequence[float | None]]
"""Selects one value per second from a series; None if there is none."""

_BEFORE, _AFTER = 0.4, 2.0  # the time shown around the trigger, in lengths of the trigger
_MIN_BEFORE, _MIN_AFTER = 10, 30  # seconds
_WORTH_A_VIEW = 2.0  # the whole run must be that many times longer than the view of the trigger


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A part of a run, in whole seconds."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A quantity over time; `backdrop` is a name and a quantity for comparison.

    A `clipped` backdrop may exceed the chart.
    """

    title: str
    unit: str
    pick: Pick
    backdrop: tuple[str, Pick] | None = None
    clipped: bool = False


class Comparison:
    """A scenario and its runs under one or more policies, each with the same seeds.

    `names` are display names of policies; other policies keep their own.
    """

    def __init__(
        self,
        scenario: Scenario,
        results: Sequence[Result],
        names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.scenario = scenario
        self.runs: dict[str, list[Result]] = {}
        for result in results:
            self.runs.setdefault(result.policy, []).append(result)
        self.names = {policy: names.get(policy) or escape_name(policy) for policy in self.runs}
        self.views = list(_views(scenario, results))

    @property
    def seeds(self) -> list[int]:
        return [result.seed for result in self._first]

    @property
    def drawn(self) -> list[str]:
        return list(self.runs)[: len(STROKES)]

    @property
    def _first(self) -> list[Result]:
        return next(iter(self.runs.values()))

    def measures(self, policy: str) -> list[Measures]:
        return [result.measures for result in self.runs[policy]]

    def mean(self, policy: str) -> Measures:
        return average(self.measures(policy))

    def knows(self, pick: Pick) -> bool:
        return all(len(pick(result.series)) for runs in self.runs.values() for result in runs)

    def any(self, pick: Pick) -> bool:
        """Whether the quantity is ever above zero, under any drawn policy."""
        return any(
            any(pick(result.series)) for policy in self.drawn for result in self.runs[policy]
        )

    def panel(self, view: View, quantity: Quantity, policies: Sequence[str]) -> Panel:
        length = view.end - view.start
        step, clock = stride(length), clock_for(length)
        lines = [self._line(view, step, policy, quantity.pick) for policy in policies]
        if quantity.backdrop is not None:
            name, pick = quantity.backdrop
            runs = self._first if len(policies) > 1 else self.runs[policies[0]]
            backdrop = means(_mean_of([_cut(run, pick, view) for run in runs]), step)
            lines.insert(0, Line(name=name, ys=backdrop))
        seconds = [view.start + place + (step - 1) / 2 for place in range(0, length, step)]
        load = self.scenario.load
        shaded = None
        if load is not None and load.trigger_until is not None:
            shaded = ((load.trigger_at or 0.0) / clock.seconds, load.trigger_until / clock.seconds)
        names = ", ".join(line.name for line in lines)
        return Panel(
            about=f"{quantity.title}, in {quantity.unit}: {names}. {view.name}.",
            x_label=clock.label("the start"),
            y_label=quantity.unit + ("" if step == 1 else f", means of {step} s"),
            xs=[second / clock.seconds for second in seconds],
            lines=lines,
            shaded=shaded,
            shaded_as="trigger",
            clipped=quantity.clipped,
        )

    def _line(self, view: View, step: int, policy: str, pick: Pick) -> Line:
        runs = [means(_cut(run, pick, view), step) for run in self.runs[policy]]
        low = high = None
        if len(runs) > 1:
            low = [min(at) for at in zip(*runs, strict=True)]
            high = [max(at) for at in zip(*runs, strict=True)]
        stroke = list(self.runs).index(policy)
        return Line(name=self.names[policy], ys=_mean_of(runs), stroke=stroke, low=low, high=high)


def _mean_of(runs: Sequence[Sequence[float]]) -> list[float]:
    return [mean(at) for at in zip(*runs, strict=True)]


def _cut(run: Result, pick: Pick, view: View) -> list[float]:
    """Return the values in a view; 0 after the end of the series, when all calls have ended."""
    seconds = list(pick(run.series)[view.start : view.end])
    seconds += [0.0] * (view.end - view.start - len(seconds))
    return [nan if value is None else value for value in seconds]


def _views(scenario: Scenario, results: Sequence[Result]) -> Sequence[View]:
    """Return the whole run, and the time around the trigger if that is a small part of it."""
    load = scenario.load
    assert load is not None
    if load.trigger_until is None:  # it ends when its last call does
        longest = max(len(result.series.calls) for result in results)
        return [View(name="The whole run", start=0, end=max(2, longest))]
    whole = View(name="The whole run", start=0, end=int(scenario.duration))
    at, until = load.trigger_at or 0.0, load.trigger_until
    span = until - at
    start = max(0, int(at - max(_MIN_BEFORE, _BEFORE * span)))
    end = min(whole.end, int(until + max(_MIN_AFTER, _AFTER * span)))
    if whole.end < _WORTH_A_VIEW * (end - start):
        return [whole]
    return [whole, View(name="Around the trigger", start=start, end=end)]


ANSWERS = Quantity(
    title="Answers in time",
    unit="answers per second",
    pick=lambda series: series.answers,
    backdrop=("the ideal: what was possible", lambda series: series.ideal),
)
ATTEMPTS = Quantity(
    title="Attempts",
    unit="attempts per second",
    pick=lambda series: series.attempts,
    backdrop=("calls that arrive", lambda series: series.calls),
)
LOST = Quantity(
    title="Calls lost",
    unit="calls per second that end unanswered",
    pick=lambda series: [a + b for a, b in zip(series.failed, series.shed, strict=True)],
)
WASTED = Quantity(
    title="Wasted work",
    unit="seconds of the provider's work, per second",
    pick=lambda series: series.wasted,
)
QUEUED = Quantity(
    title="Waiting in the clients' queues", unit="calls", pick=lambda series: series.queued
)
OPEN = Quantity(
    title="Circuits that are not closed", unit="processes", pick=lambda series: series.open_circuits
)
IN_FLIGHT = Quantity(
    title="In flight, against the limit",
    unit="attempts in flight",
    pick=lambda series: series.in_flight,
    backdrop=("the limit", lambda series: series.limit),
    clipped=True,
)
