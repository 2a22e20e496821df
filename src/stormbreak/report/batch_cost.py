"""What a batch has cost, as a part of its report."""

from stormbreak.batch.store.cost import BatchCost, ModelCost
from stormbreak.cost.ledger import Span
from stormbreak.cost.money import USD, between
from stormbreak.escape import shown
from stormbreak.report.page import Section, Table

_HEADS = (
    "model",
    "answers",
    "tokens in",
    "tokens out",
    "useful, USD",
    "wasted, USD",
    "in all, USD",
)
_UNKNOWN = "not known"


def cost_section(cost: BatchCost | None) -> Section:
    """All runs on one OUTPUT together, by model; None: nobody can tell."""
    if cost is None or not cost.models:
        return Section(
            title="Cost",
            lead="Not known: no answer says what it used, or there is no price list (pip install 'stormbreak[cost]').",
        )
    lead = (
        "Of all runs on this file, at the list prices or those that were given. What an attempt without an answer"
        " costs lies between bounds: only the provider knows."
    )
    return Section(
        title="Cost",
        lead=" ".join([lead, *(shown(note, 200) for note in cost.notes)]),
        table=Table(heads=_HEADS, rows=[_row(each) for each in cost.models]),
    )


def _row(each: ModelCost) -> list[str]:
    return [
        shown(each.model),
        f"{each.answers:,}",
        f"{each.tokens.input:,.0f}",
        f"{each.tokens.output:,.0f}",
        _UNKNOWN if each.useful is None else USD.shown(each.useful),
        _span(each.wasted),
        _span(each.in_all),
    ]


def _span(span: Span | None) -> str:
    if span is None:
        return _UNKNOWN
    return between(USD.shown(span.least), USD.shown(span.most))
