"""Find the route of a client key's call by its model, in a checked copy of the settings file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from stormbreak.config.gateway_settings import ANY, GatewaySettings
from stormbreak.errors import ConfigurationError
from stormbreak.gateway.errors import RefusedError
from stormbreak.gateway.keys import ClientKey, client_keys
from stormbreak.hidden_keys import quote_model
from stormbreak.http.pricing import check_installed
from stormbreak.http.routing import TargetConfig, make_room
from stormbreak.http.settings import Generation, ModelRoute
from stormbreak.types import Target

_MAX_MODEL = 256  # characters of its name


class Lead(NamedTuple):
    """The route of a key's calls for a model, and their common settings.

    `model` is the name at the target, `shown` the name in logs. `is_single`: calls can go nowhere else. `deadline` is
    in seconds; `max_output` is the token limit of an answer if the request sets none.
    """

    config: TargetConfig
    model: str
    shown: str
    is_single: bool
    deadline: float
    max_output: int | None


@dataclass(frozen=True, slots=True)
class GatewayRules:
    """A checked copy of the settings file.

    `secrets` are the keys of providers, which must not reach a client.
    """

    generation: Generation
    settings: GatewaySettings
    keys: Mapping[str, ClientKey]
    secrets: tuple[bytes, ...]
    _known: dict[tuple[str, str], Lead] = field(default_factory=dict, init=False, repr=False)

    @property
    def leads(self) -> Mapping[str, str]:
        return self.generation.leads

    def models(self, key: ClientKey) -> list[str]:
        """Return the names that a key may ask for, without names that end in `*`."""
        return [model for model in self.leads if key.settings.allows(model)]

    def targets(self, key: ClientKey) -> dict[Target, None]:
        """Return the targets of the models that a key may ask for by their whole names."""
        found: dict[Target, None] = {}
        for model in self.models(key):
            lead = self.lead(model, key)
            route, steps = lead.config.route_and_steps(lead.model)
            found |= dict.fromkeys(
                (route.target, *(each for step in steps for each, _ in step.targets))
            )
        return found

    def _shown(self, model: str) -> str:
        """Return the model name for a log, as in the file: other names may hold anything."""
        if model in self.leads:
            return model
        starts = (start for start, _ in self.generation.beginnings if model.startswith(start))
        return next((f"{start}{ANY}" for start in starts), "other")

    def lead(self, model: str, key: ClientKey) -> Lead:
        """Return the route of a call for `model`.

        Raises RefusedError if the key may not use that model, or it is unknown.
        """
        known = self._known.get((model, key.name))
        if known is not None:
            return known
        route = self._route(model, key)
        policy = route.config.policy
        spends = [each for each in (policy.spend, *key.spends) if each.acts]
        bounds = [each.max_output_tokens for each in spends if each.max_output_tokens is not None]
        deadline = min(policy.deadline or inf, key.settings.deadline or inf)
        most, shown = min(bounds, default=None), self._shown(model)
        lead = Lead(route.config, route.model, shown, route.is_single, deadline, most)
        if route.is_fixed:
            make_room(self._known)
            self._known[model, key.name] = lead
        return lead

    def _route(self, model: str, key: ClientKey) -> ModelRoute:
        if len(model) > _MAX_MODEL or not model.isprintable():  # it appears in logs and headers
            message = f"no model can have the name {quote_model(model)}"
            raise RefusedError(404, "model_not_found", message)
        route = self.generation.route(model)
        if route is None:
            message = f"no model has the name {quote_model(model)}"
            raise RefusedError(404, "model_not_found", message)
        if not key.settings.allows(model):
            message = f"key {key.name} may not use {quote_model(model)}"
            raise RefusedError(403, "model_not_allowed", message)
        return route


def rules_of(generation: Generation) -> GatewayRules:
    """Check the settings file for a gateway.

    Raises ConfigurationError if it has no key, an invalid label or tenant, or a spend limit without prices.
    """
    settings = generation.settings
    if not settings.keys:
        raise ConfigurationError(
            "it has no client key: add the lines that `stormbreak gateway key new NAME` prints"
        )
    limits = (*settings.keys.values(), *settings.tenants.values())
    if any(each.spend.acts for each in limits) and not settings.prices:
        check_installed()
    keys = {config.origin.api_key for config in generation.configs.values()}
    secrets = tuple(key.encode() for key in keys if key)
    clients = client_keys(settings.keys, settings.tenants)
    return GatewayRules(generation, settings.gateway, clients, secrets)
