"""A fleet whose store never answers, but records its requests."""

from stormbreak.core.fleet_lease import TargetLease


class QuietFleet:
    """`woken` counts how often the leases of targets asked to report."""

    def __init__(self):
        self.woken = 0
        self.restarts = 0
        self.lease_of = {}

    def start_over(self):
        self.restarts += 1

    def lease(self, _engine, state):
        lease = TargetLease(state.policy.fleet, 1.0, self._wake)
        self.lease_of[state.target] = lease
        return lease

    def _wake(self):
        self.woken += 1
