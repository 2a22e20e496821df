"""Make the policy of a run: apply the options, share its limits between workers, make room for its connections."""

from dataclasses import replace

from stormbreak.batch.run_options import AUTO, BatchOptions
from stormbreak.batch.running.file_descriptors import make_room, too_many_files
from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.fallback_policy import ToTargets
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.row_schedule import PER_WIDTH, max_rows_in_flight
from stormbreak.errors import ConfigurationError
from stormbreak.http.h1.connection import POOL_LIMIT
from stormbreak.http.policy_in_force import in_force


def policy_of_run(policy: Policy, options: BatchOptions, *, store: str | None = None) -> Policy:
    """Put the options into a policy. Workers share its limits through the `store` of their parent, if there is one.

    Raises ConfigurationError if the given concurrency does not fit, or not even one connection does.
    """
    quota, spend, fleet = policy.rate_limit, policy.spend, policy.fleet
    quota = replace(quota, rpm=options.rpm or quota.rpm, tpm=options.tpm or quota.tpm)
    if options.max_output_tokens is not None:
        spend = replace(spend, max_output_tokens=options.max_output_tokens)
    if options.max_cost is not None:
        spend = replace(spend, max_usd=options.max_cost, period=None)
    if options.fleet or fleet.acts:
        # The run counts the money itself: a later run on OUTPUT includes what this one has spent.
        try:
            fleet = replace(fleet, url=options.fleet or fleet.url, spend=False)
        except ConfigurationError as error:
            raise ConfigurationError(f"fleet.{error}") from None
    policy = replace(policy, rate_limit=quota, spend=spend, fleet=fleet)
    if options.concurrency == AUTO:
        policy = replace(policy, limit=AutomaticLimit())
    elif options.concurrency is not None:
        policy = replace(policy, limit=FixedLimit(max_in_flight=options.concurrency))
    if store is not None:
        policy = _shared(policy, options, store)
    return _fitting(policy, options)


def width_of(policy: Policy, options: BatchOptions) -> int:
    """Return the maximum number of rows of one process that are sent or about to be."""
    return _named(options) or max_rows_in_flight(policy)


def _shared(policy: Policy, options: BatchOptions, store: str) -> Policy:
    """Make the policy of one worker; it shares all limits with the others."""
    part = in_force(policy).process_share  # of the limits, for all workers
    count = options.workers or 1
    if policy.fleet.acts:
        if options.max_cost is not None:
            why = "workers share limits and money through one store, and a fleet needs it"
            raise ConfigurationError(
                f"workers, fleet and max-cost: give at most two of them; {why}"
            )
        return replace(policy, process_share=part / count)
    quota, limit = policy.rate_limit, policy.limit
    quota = replace(quota, rpm=quota.rpm and quota.rpm * part, tpm=quota.tpm and quota.tpm * part)
    if isinstance(limit, FixedLimit):
        limit = replace(limit, max_in_flight=max(1, int(limit.max_in_flight * part)))
    fleet = FleetPolicy(url=store, name="batch")
    return replace(policy, rate_limit=quota, limit=limit, fleet=fleet, process_share=part / count)


def _fitting(policy: Policy, options: BatchOptions) -> Policy:
    """Make room for all connections; lower a limit to what fits unless an option sets it."""
    named = _named(options)
    if named is not None and named > POOL_LIMIT:
        raise ConfigurationError(
            f"concurrency {named:,}: a run has at most {POOL_LIMIT:,} connections to an address"
        )
    ceiling = policy.limit.max_in_flight
    wanted = min(ceiling, POOL_LIMIT, PER_WIDTH * width_of(policy, options))
    places = 1 + sum(len(rule.targets) for rule in policy.fallback if isinstance(rule, ToTargets))
    fit = make_room(wanted * places)
    if fit >= wanted * places:
        return policy
    if named is not None or fit < places:
        raise too_many_files(named or 1, places, fit)
    bound = min(ceiling, fit // places)
    return replace(policy, limit=replace(policy.limit, max_in_flight=bound))


def _named(options: BatchOptions) -> int | None:
    return options.concurrency if isinstance(options.concurrency, int) else None
