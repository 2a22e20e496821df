"""Where a report goes: all that a command needs to know. Light to import; what draws is loaded when something is written.

Everything that can be wrong with the place is found out before anything runs.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self

from stormbreak.batch.store.append_file import replacing
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, quoted

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
_NEEDED = ("jinja2", "matplotlib")


class ReportFile:
    """A file that a report will be written to: a page, or a picture, by its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kind = path.suffix.lower()

    @classmethod
    def of(cls, name: str, *, kinds: Sequence[str] = (PAGE, PICTURE)) -> Self:
        """Find out whether a report can be written there; leaves nothing behind. `kinds` are the suffixes allowed.

        Raises:
            ConfigurationError: it cannot, or what draws it is not installed.
        """
        path = Path(name)
        if path.suffix.lower() not in kinds:
            raise ConfigurationError(
                f"--report must end in {' or '.join(kinds)}, got {quoted(name)}"
            )
        if any(find_spec(module) is None for module in _NEEDED):
            needed = " and ".join(_NEEDED)
            raise ConfigurationError(f"--report needs {needed}: pip install 'stormbreak[report]'")
        _try_out(path)
        if path.exists() and not path.is_file():
            what = "a directory" if path.is_dir() else "no file that can be replaced"
            raise ConfigurationError(f"--report {path_of(path)}: is {what}")
        return cls(path)

    def storm(
        self,
        scenario: "Scenario",
        results: "Sequence[Result]",
        *,
        live: bool = False,
    ) -> None:
        """Write the report of a storm, simulated or `live`; its verdict is on the policy of the first result.

        Raises:
            ConfigurationError: it cannot be written any more.
        """
        from stormbreak.report import storm_report as report  # noqa: PLC0415 - loads what draws

        self._write(
            lambda: report.storm_page(scenario, results, live=live),
            lambda: report.storm_picture(scenario, results),
        )

    def batch(
        self, summary: "Summary", course: "RunStats", cost: "BatchCost | None" = None
    ) -> None:
        """Write the report of a batch run. Raises ConfigurationError if it cannot be written any more."""
        from stormbreak.report import batch_report as report  # noqa: PLC0415 - loads what draws

        self._write(
            lambda: report.batch_page(summary, course, cost),
            lambda: report.batch_picture(summary, course),
        )

    def cost(self, facts: "CostFacts", said: Sequence[str], sheets: "Mapping[str, Sheet]") -> None:
        """Write the report of costs. Raises ConfigurationError if it cannot be written any more."""
        from stormbreak.report import cost_report as report  # noqa: PLC0415 - loads what draws

        self._write(
            lambda: report.cost_page(facts, said, sheets), lambda: report.cost_picture(facts)
        )

    def survey(self, found: "Survey") -> None:
        """Write the page of a survey. Raises ConfigurationError if it cannot be written any more."""
        from stormbreak.report import survey_report as report  # noqa: PLC0415 - loads what draws

        self._write(lambda: report.survey_page(found))

    def _write(
        self, page: "Callable[[], Page]", picture: "Callable[[], Picture] | None" = None
    ) -> None:
        from stormbreak.report.page import fill_in  # noqa: PLC0415 - loads what draws
        from stormbreak.report.picture import png_of  # noqa: PLC0415 - loads what draws

        if picture is None or self._kind == PAGE:
            made = fill_in(page()).encode()
        else:
            made = png_of(picture())
        with replacing(self.path) as file:
            file.write(made)


class _WriteCheckDoneError(Exception):
    """Nothing was to be written."""


def _try_out(path: Path) -> None:
    with suppress(_WriteCheckDoneError), replacing(path):
        raise _WriteCheckDoneError
