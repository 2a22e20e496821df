"""One process of a fleet: makes calls to a provider and prints their results as a line of JSON.

`python fleet_worker.py '{"fleet": URL, "base_url": URL, "calls": 10, ...}'`
"""

import asyncio
import json
import sys
import time
from dataclasses import replace

from metering import price_of

from stormbreak import AsyncClient
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.errors import StormbreakError
from stormbreak.fleet import valkey

SAY = [{"role": "user", "content": "hello there"}]


def policy_of(options):
    """The policy of a worker."""
    policy = Policy(
        patience=options.get("patience", 10.0),
        retry_budget=None,
        fleet=FleetPolicy(url=options["fleet"], **options.get("policy", {})),
    )
    if "rpm" in options:
        policy = replace(policy, rate_limit=RateLimitPolicy(rpm=options["rpm"]))
    if "in_flight" in options:
        policy = replace(policy, limit=FixedLimit(max_in_flight=options["in_flight"]))
    if "max_usd" in options:
        policy = replace(
            policy, spend=SpendPolicy(max_usd=options["max_usd"], max_output_tokens=50)
        )
    return policy


async def work(options):
    """Make the calls at once or one every `every` seconds; with `until`, stop after an error with this text."""
    waits, errors, started = [], [], time.time()

    async def call(client):
        start = time.monotonic()
        try:
            await client.chat(SAY, model="m")
        except StormbreakError as error:
            errors.append(str(error))
        waits.append(time.monotonic() - start)

    valkey.QUIET = options.get("quiet", valkey.QUIET)
    client = AsyncClient(base_url=options["base_url"], policy=policy_of(options), prices=price_of)
    async with client, asyncio.TaskGroup() as group:
        print("ready", flush=True)
        for _ in range(options["calls"]):
            if "until" in options and any(options["until"] in error for error in errors):
                break
            group.create_task(call(client))
            if options.get("every"):
                await asyncio.sleep(options["every"])
    print(
        json.dumps({"waits": waits, "errors": errors, "started": started, "ended": time.time()}),
        flush=True,
    )


if __name__ == "__main__":
    asyncio.run(work(json.loads(sys.argv[1])))
