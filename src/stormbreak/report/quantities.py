"""What is drawn of a storm, second by second."""

from stormbreak.report.comparison import Pick, Quantity


def _each(name: str) -> Pick:
    return lambda series: getattr(series, name, ())


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
    unit="slots of the provider that work for nobody",
    pick=_each("wasted"),
)
QUEUED = Quantity(title="Waiting in the clients' queues", unit="calls", pick=_each("queued"))
OPEN = Quantity(
    title="Circuits that are not closed",
    unit="processes",
    pick=_each("open_circuits"),
)
IN_FLIGHT = Quantity(
    title="In flight, against the limit",
    unit="attempts in flight",
    pick=_each("in_flight"),
    backdrop=("the limit", _each("limit")),
)
