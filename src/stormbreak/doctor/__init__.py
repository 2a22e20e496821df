"""Looks at installed SDKs and at a client object, and names what would multiply attempts, wait for ever or lead past us."""

from stormbreak.doctor.client import examine
from stormbreak.doctor.findings import Finding, Severity

__all__ = ["Finding", "Severity", "examine"]
