"""Looks at installed SDKs and at a client object, and names what would multiply attempts, wait for ever or lead past us.

The public names. Each is loaded when it is first used: what is installed is looked at without a client.
"""

from typing import TYPE_CHECKING

from stormbreak.lazy_import import on_demand

if TYPE_CHECKING:
    from stormbreak.doctor.client_check import examine as examine
    from stormbreak.doctor.findings import Finding as Finding
    from stormbreak.doctor.findings import Severity as Severity

_HOMES = {
    "Finding": "stormbreak.doctor.findings",
    "Severity": "stormbreak.doctor.findings",
    "examine": "stormbreak.doctor.client_check",
}

__all__ = [*_HOMES]  # noqa: PLE0604 - names only

__getattr__, __dir__ = on_demand(__name__, _HOMES)
