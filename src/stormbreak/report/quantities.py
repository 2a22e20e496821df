"""What is drawn of a storm, second by second."""

from stormbreak.report.comparison import Quantity

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
    title="Circuits that are not closed",
    unit="processes",
    pick=lambda series: series.open_circuits,
)
IN_FLIGHT = Quantity(
    title="In flight, against the limit",
    unit="attempts in flight",
    pick=lambda series: series.in_flight,
    backdrop=("the limit", lambda series: series.limit),
    clipped=True,
)
