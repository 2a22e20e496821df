"""A process whose metrics are merged with those of other processes. It runs commands from its standard input, one a line:

`call TARGET [TENANT]`, `end`, `cool SECONDS`, `limit TENANT RPM` (0: none), `detach`, `scrape`, `fork` (the child continues to read).
Each is answered with a line.

With an argument, its files are named by that number and not by its pid.
"""

import os
import sys

from prometheus_client import values
from stage import OK, retry_in

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.core.tenant import TenantLimits
from stormbreak.drivers.flow_stepper import shared_stepper
from stormbreak.telemetry import Metrics, attach, prometheus_multiprocess
from stormbreak.types import Call, Target


class Worker:
    def __init__(self):
        self.metrics = Metrics()
        self.engine = Engine(Policy(limit=FixedLimit(max_in_flight=2)))
        self.attached = attach(self.engine, self.metrics)
        self.stepper = shared_stepper(self.engine, clock=lambda: 100.0, chance=lambda: 0.5)
        self.flows = []

    def call(self, model, tenant=""):
        call = Call(self.engine.number(), Target("acme", model), tenant=tenant)
        self.flows.append(self.stepper.start(call)[0])

    def end(self):
        self.stepper.step(self.flows.pop(0), OK)

    def cool(self, seconds):
        self.stepper.step(self.flows.pop(0), retry_in(float(seconds)))

    def limit(self, tenant, rpm):
        tenants = {tenant: TenantLimits(rpm=float(rpm) or None)}
        self.stepper.between_steps(
            lambda engine, now: engine.govern(engine.policy, {}, now, tenants=tenants)
        )

    def detach(self):
        self.attached.detach()

    def scrape(self):
        return self.metrics.exposition()[1].decode()

    def fork(self):
        if os.fork():
            os.wait()
            os._exit(0)
        self.flows.clear()


if __name__ == "__main__":
    prometheus_multiprocess.WRITE_INTERVAL = 0.05
    if sys.argv[1:]:
        values.ValueClass = values.MultiProcessValue(lambda: int(sys.argv[1]))
    worker = Worker()
    print("ready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        name, *words = line.split()
        answer = getattr(worker, name)(*words)
        print(repr(answer), flush=True)
