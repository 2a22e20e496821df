"""What a doctor says: a finding names a fact, its place, why it matters and what to write instead."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

LONG = 300.0  # seconds without a byte that are worth a word; the longest answers begin sooner


class Severity(StrEnum):
    """How bad it is, the worst first."""

    WRONG = "wrong"
    """It acts against you as it stands: calls are lost, multiplied, unbounded or lead past every policy."""
    RISK = "risk"
    """It will in a storm."""
    NOTE = "note"
    """Good to know; nothing needs to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fact. `name` is short and stays what it is, for scripts; no field holds a key or a prompt."""

    severity: Severity
    name: str
    where: str
    what: str
    why: str
    instead: str

    def __str__(self) -> str:
        return (
            f"{self.severity}: {self.where}: {self.what} [{self.name}]\n"
            f"  why: {self.why}\n"
            f"  instead: {self.instead}"
        )


def sorted_by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Each finding once, the worst first, else in the order in which they were found."""
    order = list(Severity)
    return sorted(dict.fromkeys(findings), key=lambda finding: order.index(finding.severity))
