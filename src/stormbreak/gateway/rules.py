"""What one reading of the settings file says: the keys, and where each model name leads. Complete before it is used."""

from collections.abc import Mapping
from dataclasses import dataclass

from stormbreak.config.gateway_settings import ANY, GatewaySettings
from stormbreak.errors import ConfigurationError
from stormbreak.gateway.errors import RefusedError
from stormbreak.gateway.keys import ClientKey, client_keys
from stormbreak.http.pricing import list_price
from stormbreak.http.settings import Generation, ModelRoute
from stormbreak.key_patterns import quote_model

_MAX_MODEL = 256  # characters of its name


@dataclass(frozen=True, slots=True)
class GatewayRules:
    """A reading of the file.

    `secrets`, the keys of providers, reach no client.
    """

    generation: Generation
    settings: GatewaySettings
    keys: Mapping[str, ClientKey]
    secrets: tuple[bytes, ...]

    @property
    def leads(self) -> Mapping[str, str]:
        """Targets and pools by model name."""
        return self.generation.leads

    def models(self, key: ClientKey) -> list[str]:
        """Return the names that a key may ask for, without those by their beginning."""
        return [model for model in self.leads if key.settings.allows(model)]

    def shown_model(self, model: str) -> str:
        """Return a model name for a log, as it stands in the file: others may hold anything."""
        if model in self.leads:
            return model
        starts = (start for start, _ in self.generation.beginnings if model.startswith(start))
        return next((f"{start}{ANY}" for start in starts), "other")

    def route(self, model: str, key: ClientKey) -> ModelRoute:
        """Return the route of a call for `model`.

        Raises:
            RefusedError: the key may not ask for that model, or it leads nowhere.
        """
        if len(model) > _MAX_MODEL or not model.isprintable():  # it stands in logs and headers
            message = f"no model can be called {quote_model(model)}"
            raise RefusedError(404, "model_not_found", message)
        route = self.generation.route(model)
        if route is None:
            message = f"no model is called {quote_model(model)}"
            raise RefusedError(404, "model_not_found", message)
        if not key.settings.allows(model):
            message = f"key {key.name} may not use {quote_model(model)}"
            raise RefusedError(403, "model_not_allowed", message)
        return route


def rules_of(generation: Generation) -> GatewayRules:
    """Check a reading of the file for a gateway.

    Raises:
        ConfigurationError: it has no key, a label or a tenant that cannot be, or a spend limit without prices.
    """
    settings = generation.settings
    if not settings.keys:
        raise ConfigurationError(
            "it has no client key: add the lines that `stormbreak gateway key new NAME` prints"
        )
    limits = (*settings.keys.values(), *settings.tenants.values())
    if any(each.spend.acts for each in limits) and not settings.prices:
        list_price("openai", "")  # loaded now, so that no call waits for it
    keys = {config.origin.api_key for config in generation.configs.values()}
    secrets = tuple(key.encode() for key in keys if key)
    clients = client_keys(settings.keys, settings.tenants)
    return GatewayRules(generation, settings.gateway, clients, secrets)
