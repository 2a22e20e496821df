"""The figures as a table for the terminal, or as the marked block of docs/benchmarks.md."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from marked import Block
from rounds import Figure, Section

FIGURES = Block(
    Path(__file__).parent.parent / "docs" / "benchmarks.md",
    "<!-- figures: written by `make bench WRITE=1` -->",
    "<!-- end of figures -->",
)

_Row: TypeAlias = tuple[str, str, str, str, str, str, str]
_COLUMNS: _Row = ("", "min", "median", "max", "unit", "goal", "")


def plain(section: Section) -> str:
    """Lay one section out in columns."""
    table = [(section.title, *_COLUMNS[1:]), *(_cells(figure) for figure in section.figures)]
    lines = [
        f"{row[0]:<50}{row[1]:>9}{row[2]:>9}{row[3]:>9} {row[4]:<5}{row[5]:<16}{row[6]}".rstrip()
        for row in table
    ]
    return "\n".join([*lines, *section.remarks, ""])


def markdown(sections: Sequence[Section], machine: str) -> str:
    """Write all sections, under the machine they were measured on."""
    parts = [f"Measured on: {machine}.\n"]
    for section in sections:
        rows: list[_Row] = [_COLUMNS, ("---", "--:", "--:", "--:", "---", "---", "---")]
        rows += [_cells(figure) for figure in section.figures]
        table = "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)
        parts.append(f"### {section.title}\n\n{table}\n")
        parts += [f"{remark}\n" for remark in section.remarks]
    return "\n".join(parts)


def rewrite(text: str) -> None:
    """Put `text` into the marked block of the page."""
    FIGURES.write(f"\n{text}\n")


def _cells(figure: Figure) -> _Row:
    goal = figure.goal and f"{figure.goal}: {'met' if _is_met(figure) else 'missed'}"
    low, median, high = (_number(value) for value in (figure.low, figure.median, figure.high))
    return (figure.name, low, median, high, figure.unit, goal, figure.note)


def _is_met(figure: Figure) -> bool:
    relation, number = figure.goal.split()[:2]
    return figure.median >= float(number) if relation == ">=" else figure.median <= float(number)


def _number(value: float) -> str:
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 50 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"
