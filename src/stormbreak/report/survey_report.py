"""The report of a survey: the loss of a policy in random storms, the worst first."""

from collections.abc import Mapping
from math import inf

from stormbreak.escape import shown
from stormbreak.report.page import Bar, Page, Section, Table
from stormbreak.storm.survey import NEAR, Summary, Survey, loss_text

_LONG = 1000  # characters of a sentence
_WORST = 50  # storms on the page


def survey_page(found: Survey) -> Page:
    return Page(
        kind="a survey of random batches" if found.is_batch else "a survey of random storms",
        title=shown(found.policy),
        about="Every policy gets the same storms: the same calls and the same random numbers.",
        verdict=shown(found.sentence, _LONG),
        facts=[
            ("storms", f"{len(found.scores):,}"),
            ("seed", f"{found.seed}"),
            ("preset", found.preset),
            ("policies beside it", f"{len(found.others)}"),
        ],
        sections=[
            _worst(found),
            _means(found),
            Section(title="By family", table=_losses(found, "family", found.families)),
            *([] if found.is_batch else [_sizes(found)]),
            Section(title="Terms", notes=_BATCH_TERMS if found.is_batch else _TERMS),
        ],
    )


def _worst(found: Survey) -> Section:
    scores = found.worst(_WORST)
    unit = "s" if found.is_batch else "%"
    table = Table(
        heads=["draw and family", "lost", f"ours, {unit}", f"best, {unit}", "best", "the storm"],
        rows=[
            [
                f"{score.draw.number} {score.draw.family}",
                loss_text(score.regret),
                loss_text(score.values[found.policy]),
                loss_text(score.values[score.best]),
                shown(score.best),
                shown(score.about, _LONG),
            ]
            for score in scores
        ],
        texts=(4, 5),
    )
    count = len(found.scores)
    best = count - len(found.worst(count))
    lead = f"{shown(found.policy)} is the best of all in {best:,} of {count:,}."
    return Section(title="The worst storms", lead=lead, table=table if scores else None)


def _means(found: Survey) -> Section:
    means = found.means
    longest = max((mean for mean in means.values() if mean < inf), default=0.0) or 1.0
    unit = " s" if found.is_batch else " %"
    return Section(
        title="Mean seconds until 99 % are answered" if found.is_batch else "Mean goodput",
        bars=[
            Bar(
                name=shown(name),
                share=min(1.0, mean / longest),
                figure=loss_text(mean) + (unit if mean < inf else ""),
            )
            for name, mean in means.items()
        ],
    )


def _sizes(found: Survey) -> Section:
    return Section(
        title="By size of process",
        lead="Calls per second and process before the storm. A process with few calls has little to learn from.",
        table=_losses(found, "calls/s of a process", found.fleets),
    )


def _losses(found: Survey, by: str, groups: Mapping[str, Summary]) -> Table:
    near = [] if found.is_batch else [f"within {points:g}" for points in NEAR]
    return Table(
        heads=[by, "storms", "mean", "median", "p90", "worst", *near],
        rows=[[key, *each.cells] for key, each in {**groups, "all": found.summary()}.items()],
    )


_TERMS = (
    ("Goodput", "Answers in time, of those that were possible, from the start of the faults on."),
    (
        "Lost, or regret",
        "Points of goodput by which the best other policy is better; 0 if none is. No policy is best in all storms.",
    ),
)
_BATCH_TERMS = (
    (
        "Lost",
        "Seconds to 99 % of the answers, as a multiple of the fastest other policy's; 1 if no other gets there.",
    ),
    (
        "Rows",
        "The policy sends failed rows again as `batch run` does; the baselines retry as they do.",
    ),
)
