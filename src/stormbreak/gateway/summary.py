"""What each client key may do, in sentences."""

from collections.abc import Iterable, Iterator

from stormbreak.config.gateway_settings import ClientLimits
from stormbreak.gateway.keys import ClientKey
from stormbreak.gateway.rules import GatewayRules
from stormbreak.toml_values import word_of


def summarise(rules: GatewayRules) -> Iterator[str]:
    """Yield a line for each model name, and some for each key."""
    settings = rules.generation.settings
    for model, name in {**rules.leads, **rules.settings.models}.items():
        kind = "target" if name in settings.targets else "pool"
        yield f"Model {model} leads to the {kind} {name}."
    for key in rules.keys.values():
        yield " ".join(_of_key(key))


def _of_key(key: ClientKey) -> Iterator[str]:
    settings = key.settings
    names = "all of them" if settings.models is None else several(settings.models)
    yield f"Key {key.name} may ask for {names}."
    yield f"At most {_limits(settings)}." if settings.acts else "It has no limits of its own."
    for holder in key.holders:
        if holder.kind == "tenant":
            yield f"All keys of tenant {holder.name} together: at most {_limits(holder.limits)}."
    if settings.deadline is not None:
        yield f"Its calls end within {seconds(settings.deadline)}."
    if settings.priority is not None:
        yield f"Its priority is {word_of(settings.priority)}."


_SPANS = (("hour", 3600.0), ("minute", 60.0))


def seconds(span: float) -> str:
    """Format a duration in the largest unit that divides it: 600 is "10 minutes", 90 is "90 s"."""
    for name, length in _SPANS:
        count = span / length
        if count >= 1 and count == int(count):
            return f"1 {name}" if count == 1 else f"{int(count):,} {name}s"
    return f"{span:g} s"


def several(words: Iterable[str]) -> str:
    """Format a list: "504", "throttled and timeout"."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def _limits(limits: ClientLimits) -> str:
    found = [
        f"{limit:,g} {unit}"
        for limit, unit in (
            (limits.rpm, "requests a minute"),
            (limits.tpm, "tokens a minute"),
            (limits.max_in_flight, "calls at once"),
            (limits.spend.max_usd, "US dollars"),
        )
        if limit is not None
    ]
    spend = limits.spend
    if spend.acts:
        found[-1] += " in all" if spend.period is None else f" in {seconds(spend.period)}"
    return several(found)
