"""How often a layer may send what is within it, for one call: 1 where it does not retry, inf where nothing ends it."""

from collections.abc import Callable, Mapping
from math import inf
from types import FunctionType, MappingProxyType, MethodType
from typing import Any

from stormbreak.doctor.discovery import ClientLayer, NotBuiltYet, is_transport, named, used_by
from stormbreak.http.transports.sdk_transport import Door

SDKS = frozenset({"openai", "anthropic"})
"""Their own retries end with `x-should-retry: false`, which every final answer of ours carries."""


def attempts_of(layer: ClientLayer) -> float | None:
    """How often it may send what is within; None where it seems to retry and nobody can tell how often."""
    thing = layer.thing
    if isinstance(thing, Door):
        return thing.policy.retry.max_attempts
    if is_transport(thing):
        return _of_transport(thing)
    if isinstance(thing, FunctionType | MethodType):
        guard = guard_of(layer)
        return _of_function(thing) if guard is None else guard.attempts
    if isinstance(thing, NotBuiltYet):
        return _retries(thing)
    for package, count in _KNOWN.items():
        if package in layer.packages:
            return count(thing)
    return 1


def retrier(layer: ClientLayer) -> str:
    """What retries there, as its users know it: of a function, the library that decorates it."""
    if isinstance(layer.thing, NotBuiltYet):
        return "its openai client"
    if not isinstance(layer.thing, FunctionType | MethodType):
        return named(layer.thing)
    if guard_of(layer) is not None:
        return "stormbreak.resilient"
    if hasattr(layer.thing, "retry"):
        return "tenacity"
    return "stamina" if "retry_ctx" in used_by(layer.thing) else "backoff"


def _of_transport(transport: Any) -> float | None:
    """A transport that wraps another: by a tenacity configuration, by a count of retries, or by its name."""
    config = getattr(transport, "config", None)
    if isinstance(config, dict):  # pydantic_ai.retries
        return _of_stop(config.get("stop"))
    told = getattr(transport, "retry", None)
    total = getattr(told, "total", None)
    if isinstance(total, int):  # httpx-retries
        return total + 1 if "POST" in getattr(told, "allowed_methods", ("POST",)) else 1
    return None if "retr" in type(transport).__name__.lower() else 1


def guard_of(layer: ClientLayer) -> Any:
    """The `resilient` that this very function is decorated with; None where it only stands around one that is."""
    guard = getattr(layer.thing, "guarded_by", None)
    within = getattr(layer.thing, "__wrapped__", None)
    return None if getattr(within, "guarded_by", None) is guard else guard


def _of_function(function: Any) -> float | None:
    """A function under tenacity, stamina or backoff; the latter two keep what they were told in closures."""
    retrying = getattr(function, "retry", None)
    if retrying is not None and hasattr(retrying, "stop"):
        return _of_stop(retrying.stop)
    held = used_by(function)
    told = getattr(held.get("retry_ctx"), "_t_kw", None)
    if isinstance(told, dict):
        return _of_stop(told.get("stop"))
    if "max_tries" in held:
        most = held["max_tries"]
        return inf if most is None else most if isinstance(most, int) else None
    return 1


def _of_stop(stop: Any) -> float:
    """Attempts until a `stop` of tenacity's; one by time alone does not bound their number."""
    most = getattr(stop, "max_attempt_number", None)
    if isinstance(most, int):
        return most
    parts = [_of_stop(part) for part in getattr(stop, "stops", ())]
    if not parts:
        return inf
    return min(parts) if type(stop).__name__ == "stop_any" else max(parts)


def _retries(thing: Any) -> float:
    """Attempts by a count of retries that everything else here calls `max_retries` or `num_retries`."""
    for name in ("max_retries", "num_retries"):
        count = getattr(thing, name, None)
        if isinstance(count, int):
            return count + 1
    return 1


def _langchain(thing: Any) -> float:
    """`with_retry` alone retries; a model hands its `max_retries` on to the SDK."""
    most = getattr(thing, "max_attempt_number", 1)
    return most if isinstance(most, int) else 1


def _llama_index(thing: Any) -> float:
    """A tenacity decorator of so many attempts, over an SDK that is told the same number of retries."""
    return max(1, _retries(thing) - 1)


def _google(thing: Any) -> float:
    retrying = getattr(thing, "_retry", None)
    return 1 if retrying is None else _of_stop(getattr(retrying, "stop", None))


def _mistral(thing: Any) -> float:
    """Its retries are bounded by time only."""
    return inf if type(getattr(thing, "retry_config", None)).__name__ == "RetryConfig" else 1


_KNOWN: Mapping[str, Callable[[Any], float]] = MappingProxyType(
    {
        "langchain_core": _langchain,
        "llama_index": _llama_index,
        "openai": _retries,
        "anthropic": _retries,
        "litellm": _retries,
        "google": _google,
        "mistralai": _mistral,
    }
)
