"""Examines installed SDKs and client objects for what multiplies attempts, never times out or bypasses a policy.

Each public name is loaded on first use: installed SDKs are listed without importing a client.
"""

from typing import TYPE_CHECKING

from stormbreak.lazy_import import on_demand

if TYPE_CHECKING:
    from stormbreak.doctor.client_check import examine as examine
    from stormbreak.doctor.findings import Finding as Finding
    from stormbreak.doctor.findings import Severity as Severity

_HOMES = {
    "stormbreak.doctor.client_check": "examine",
    "stormbreak.doctor.findings": "Finding Severity",
}

__all__, __getattr__, __dir__ = on_demand(__name__, _HOMES)
