"""A finding of the doctor: a fact, its place, why it matters, and what to do instead."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

LONG = 300.0  # seconds without a byte; even the longest answers begin sooner


class Severity(StrEnum):
    """How bad it is, the worst first."""

    WRONG = "wrong"
    """It causes harm now: calls are lost, multiplied, unbounded, or bypass every policy."""
    RISK = "risk"
    """It will cause harm in a storm."""
    NOTE = "note"
    """Good to know. Nothing needs to change."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact. `name` is stable, for scripts. No field holds a key or a prompt."""

    severity: Severity
    name: str
    where: str
    what: str
    why: str = field(kw_only=True)
    instead: str = field(kw_only=True)

    def __str__(self) -> str:
        return (
            f"{self.severity}: {self.where}: {self.what} [{self.name}]\n"
            f"  why: {self.why}\n"
            f"  instead: {self.instead}"
        )


def sorted_by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return each finding once, the worst first, otherwise in the order found."""
    order = list(Severity)
    return sorted(dict.fromkeys(findings), key=lambda finding: order.index(finding.severity))
