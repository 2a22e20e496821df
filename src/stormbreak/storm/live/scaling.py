"""Scale a scenario down for sockets. Pure: from scenario to scenario."""

from dataclasses import replace

from stormbreak.errors import ConfigurationError, errors_at
from stormbreak.provider.scenario import Limit, Load, Provider, Scenario, shortened
from stormbreak.storm.traffic import scaled_count, scaled_load

_MAX_REHEARSAL = 5.0  # seconds of service
_ANY = Load(rate=1.0)  # deadline and timeout for scenarios without a load


def staged(
    scenario: Scenario,
    *,
    scale: float = 1.0,
    until: float | None = None,
    copies: int = 1,
    own_traffic: bool = False,
) -> Scenario:
    """Return the scenario as played: counts times `scale`, no background traffic, one process a copy.

    Raises ConfigurationError if it has no load, or is too short or too small to be measured.
    """
    if until is not None:
        scenario = shortened(scenario, until)
    load = scenario.load
    if load is None:
        if not own_traffic:
            raise ConfigurationError(
                f"{scenario.name}: a live storm needs a [load], or --own-traffic; got neither"
            )
        load = _ANY
    with errors_at(f"{scenario.name}, --scale {scale:g}"):
        return replace(
            scenario,
            provider=_provider(scenario.provider, scale),
            limit=None if scenario.limit is None else _limit(scenario.limit, scale),
            background_traffic=None,
            load=replace(scaled_load(load, scale), processes=copies),
        )


def rehearsal(scenario: Scenario) -> Scenario:
    """The same provider without faults, for the rehearsal call."""
    provider = scenario.provider
    service = min(provider.service, _MAX_REHEARSAL)
    calm = replace(
        provider,
        slots=None,
        queue=None,
        max_requests_per_second=None,
        variation=0.0,
        service=service,
        min_service=0.0,
    )
    return replace(scenario, provider=calm, limit=None, faults=(), background_traffic=None)


def _provider(provider: Provider, scale: float) -> Provider:
    return replace(
        provider,
        slots=None if provider.slots is None else scaled_count(provider.slots, scale),
        queue=provider.queue and round(provider.queue * scale),
        max_requests_per_second=provider.max_requests_per_second
        and provider.max_requests_per_second * scale,
    )


def _limit(limit: Limit, scale: float) -> Limit:
    requests = limit.requests and limit.requests * scale
    if requests is not None and requests < 1:
        raise ConfigurationError(f"limit.requests would be {requests:g}, which lets nothing pass")
    return replace(
        limit,
        requests=requests,
        tokens=limit.tokens and limit.tokens * scale,
        burst=limit.burst and limit.burst * scale,
    )
