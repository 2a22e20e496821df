"""The file of a report, the only module that commands need. Light to import: drawing code is loaded on writing.

Problems with the file are reported before anything runs.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self

from stormbreak.batch.store.durable_file import replacing
from stormbreak.errors import ConfigurationError
from stormbreak.escape import quote

if TYPE_CHECKING:
    from stormbreak.batch.running.stats import RunStats
    from stormbreak.batch.running.summary import Summary
    from stormbreak.batch.store.cost import BatchCost
    from stormbreak.cost.sheet import Sheet
    from stormbreak.provider.scenario import Scenario
    from stormbreak.report.cost_facts import CostFacts
    from stormbreak.report.page import Page
    from stormbreak.report.picture import Picture
    from stormbreak.storm import Result
    from stormbreak.storm.survey import Survey

PAGE, PICTURE = ".html", ".png"
_REQUIRED = ("jinja2", "matplotlib")


class ReportFile:
    """The file of a report: HTML or a picture, by its suffix."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kind = path.suffix.lower()

    @classmethod
    def of(cls, name: str, *, kinds: Sequence[str] = (PAGE, PICTURE)) -> Self:
        """Check that a report can be written there, without leaving a file. `kinds` are the allowed suffixes.

        Raises ConfigurationError if it cannot, or the extra `report` is not installed.
        """
        path = Path(name)
        if path.suffix.lower() not in kinds:
            raise ConfigurationError(
                f"--report must end in {' or '.join(kinds)}, got {quote(name)}"
            )
        if any(find_spec(module) is None for module in _REQUIRED):
            required = " and ".join(_REQUIRED)
            raise ConfigurationError(f"--report needs {required}: pip install 'stormbreak[report]'")
        with suppress(_WriteCheckDoneError), replacing(path):
            raise _WriteCheckDoneError
        return cls(path)

    def storm(
        self, scenario: "Scenario", results: "Sequence[Result]", *, live: bool = False
    ) -> None:
        """Write the report of a storm, simulated or `live`; its verdict is on the policy of the first result."""
        from stormbreak.report import storm_report as report  # noqa: PLC0415 - drawing code

        self._write(
            lambda: report.storm_page(scenario, results, live=live),
            lambda: report.storm_picture(scenario, results),
        )

    def batch(self, summary: "Summary", stats: "RunStats", cost: "BatchCost | None" = None) -> None:
        from stormbreak.report import batch_report as report  # noqa: PLC0415 - drawing code

        self._write(
            lambda: report.batch_page(summary, stats, cost),
            lambda: report.batch_picture(summary, stats),
        )

    def cost(
        self, facts: "CostFacts", sentences: Sequence[str], sheets: "Mapping[str, Sheet]"
    ) -> None:
        from stormbreak.report import cost_report as report  # noqa: PLC0415 - drawing code

        self._write(
            lambda: report.cost_page(facts, sentences, sheets), lambda: report.cost_picture(facts)
        )

    def survey(self, found: "Survey") -> None:
        from stormbreak.report import survey_report as report  # noqa: PLC0415 - drawing code

        self._write(lambda: report.survey_page(found))

    def _write(
        self, page: "Callable[[], Page]", picture: "Callable[[], Picture] | None" = None
    ) -> None:
        """Raise ConfigurationError if the file can no longer be written."""
        from stormbreak.report.page import html_of  # noqa: PLC0415 - drawing code
        from stormbreak.report.picture import png_of  # noqa: PLC0415 - drawing code

        if picture is None or self._kind == PAGE:
            made = html_of(page()).encode()
        else:
            made = png_of(picture())
        with replacing(self.path) as file:
            file.write(made)


class _WriteCheckDoneError(Exception):
    """Ends the check without writing."""
