"""Check for multiplied attempts: no policy, retries over retries, retries without end.

Attempts of a layer: how often it may call the layer below for one call; 1 if it does not retry, inf without a bound,
None if it seems to retry and the number is unknown.
"""

from collections.abc import Callable, Iterator, Mapping
from math import inf, prod
from types import FunctionType, MethodType
from typing import Any

from stormbreak.doctor.discovery import (
    ClientLayer,
    LazyClient,
    RequestPath,
    class_name,
    is_sdk,
    is_transport,
    names_used_by,
)
from stormbreak.doctor.findings import Finding, Severity
from stormbreak.http.transports.sdk_transport import SdkTransport

_Counted = list[tuple[ClientLayer, float | None]]


def check_retries(path: RequestPath) -> Iterator[Finding]:
    """Check for a missing policy, for retries over retries, and for SDK retries that our transport ends."""
    counted = [(layer, attempts_of(layer)) for layer in path.layers]
    guards = [layer for layer in path.layers if guard_of(layer) is not None]
    # A guard does not retry calls that our transport, or an inner guard, gave up.
    idle = guards if path.policy is not None else guards[:-1]
    retrying = [(layer, n) for layer, n in counted if (n is None or n > 1) and layer not in idle]
    if path.policy is not None:
        for layer, attempts in retrying:
            if is_sdk(layer):
                yield _stopped(layer, attempts)
        retrying = [(layer, n) for layer, n in retrying if not is_sdk(layer)]
    elif not guards:
        yield _unguarded(path, retrying)
    if len(retrying) > 1:
        yield _multiplied(retrying, guarded=path.policy is not None)
    elif retrying and retrying[0][1] == inf:
        layer = retrying[0][0]
        yield Finding(
            Severity.WRONG,
            "retries-without-end",
            layer.path,
            f"{retrier(layer)} retries without a maximum number of attempts",
            why="A call that cannot succeed is repeated for as long as the process lives.",
            instead="limit the attempts (tenacity: stop=stop_after_attempt(3); backoff: max_tries=3)",
        )


def _unguarded(path: RequestPath, retrying: _Counted) -> Finding:
    retries = " and ".join(f"{_count(n)} ({retrier(layer)})" for layer, n in retrying)
    return Finding(
        Severity.RISK,
        "no-policy",
        path.layers[0].path,
        f"no stormbreak policy between this client and the provider; attempts per call: {retries or 'one'}",
        why="In an outage every client retries at once, without budget or circuit, and keeps the provider down.",
        instead=(
            f"stormbreak.{path.library}.wrap({(path.sdk or path.http).name})"
            if path.http is not None
            else "pass a stormbreak transport to its HTTP client (docs/sdks.md)"
        ),
    )


def _stopped(layer: ClientLayer, attempts: float | None) -> Finding:
    return Finding(
        Severity.NOTE,
        "sdk-retries-stopped",
        f"{layer.path}.max_retries",
        f"the SDK's own {_count(attempts)} attempts do not multiply: our transport stops them",
        why="Every final answer says `x-should-retry: false`. Only after an exception the SDK still waits before it stops.",
        instead="leave it, or max_retries=0 to save that wait",
    )


def _multiplied(retrying: _Counted, *, guarded: bool) -> Finding:
    counts = [count for _, count in retrying]
    known = prod(count for count in counts if count is not None)
    maximum = _count(known) if known == inf else f"up to {known:g} times"
    if None in counts:
        maximum = f"at least {known:g} times"
    product = " x ".join(f"{_count(n)} ({retrier(layer)})" for layer, n in retrying)
    return Finding(
        Severity.WRONG,
        "retries-multiply",
        retrying[0][0].path,
        f"retries over retries: one call may be sent {maximum}: {product}",
        why="Each layer repeats the calls that the layer below has given up, so an outage multiplies the load.",
        instead=(
            "retry in one place: turn off all retries except stormbreak's"
            if guarded
            else f"retry in one place: keep only those of {retrier(retrying[-1][0])}, or none and let stormbreak retry"
        ),
    )


def _count(count: float | None) -> str:
    if count is None:
        return "an unknown number"
    return "without end" if count == inf else f"{count:g}"


# ---------------------------------------------------------------- attempts of a layer


def attempts_of(layer: ClientLayer) -> float | None:
    """Return how often a layer may call the layer below."""
    thing = layer.thing
    if isinstance(thing, SdkTransport):
        return thing.policy.retry.max_attempts
    if is_transport(thing):
        return _of_transport(thing)
    if isinstance(thing, FunctionType | MethodType):
        guard = guard_of(layer)
        return _of_function(thing) if guard is None else guard.attempts
    if isinstance(thing, LazyClient):
        return _of_max_retries(thing)
    for package, count in _BY_PACKAGE.items():
        if package in layer.packages:
            return count(thing)
    return 1


def retrier(layer: ClientLayer) -> str:
    """Name the retrier of a layer: its class, or the library that decorates a function."""
    thing = layer.thing
    if isinstance(thing, LazyClient):
        return "its openai client"
    if not isinstance(thing, FunctionType | MethodType):
        return class_name(thing)
    if guard_of(layer) is not None:
        return "stormbreak.resilient"
    if hasattr(thing, "retry"):
        return "tenacity"
    return "stamina" if "retry_ctx" in names_used_by(thing) else "backoff"


def guard_of(layer: ClientLayer) -> Any:
    """Return the `resilient` that decorates this function; None if it only wraps a decorated one."""
    guard = getattr(layer.thing, "guarded_by", None)
    within = getattr(layer.thing, "__wrapped__", None)
    return None if getattr(within, "guarded_by", None) is guard else guard


def _of_transport(transport: Any) -> float | None:
    """Read a wrapping transport: a tenacity configuration, a count of retries, or at least its name."""
    config = getattr(transport, "config", None)
    if isinstance(config, dict):  # pydantic_ai.retries
        return _of_stop(config.get("stop"))
    retry = getattr(transport, "retry", None)
    total = getattr(retry, "total", None)
    if isinstance(total, int):  # httpx-retries
        return total + 1 if "POST" in getattr(retry, "allowed_methods", ("POST",)) else 1
    return None if "retr" in type(transport).__name__.lower() else 1


def _of_function(function: Any) -> float | None:
    """Read a function under tenacity, stamina or backoff; the latter two keep their settings in closures."""
    retrying = getattr(function, "retry", None)
    if retrying is not None and hasattr(retrying, "stop"):
        return _of_stop(retrying.stop)
    names = names_used_by(function)
    settings = getattr(names.get("retry_ctx"), "_t_kw", None)
    if isinstance(settings, dict):
        return _of_stop(settings.get("stop"))
    if "max_tries" in names:
        maximum = names["max_tries"]
        return inf if maximum is None else maximum if isinstance(maximum, int) else None
    return 1


def _of_stop(stop: Any) -> float:
    """Read a `stop` of tenacity; a time alone does not bound the number of attempts."""
    maximum = getattr(stop, "max_attempt_number", None)
    if isinstance(maximum, int):
        return maximum
    parts = [_of_stop(part) for part in getattr(stop, "stops", ())]
    if not parts:
        return inf
    return min(parts) if type(stop).__name__ == "stop_any" else max(parts)


def _of_max_retries(thing: Any) -> float:
    for name in ("max_retries", "num_retries"):
        count = getattr(thing, name, None)
        if isinstance(count, int):
            return count + 1
    return 1


def _langchain(thing: Any) -> float:
    """Read `with_retry`; a model passes its `max_retries` to the SDK."""
    maximum = getattr(thing, "max_attempt_number", 1)
    return maximum if isinstance(maximum, int) else 1


def _google(thing: Any) -> float:
    retrying = getattr(thing, "_retry", None)
    return 1 if retrying is None else _of_stop(getattr(retrying, "stop", None))


_BY_PACKAGE: Mapping[str, Callable[[Any], float]] = {
    "langchain_core": _langchain,
    # A tenacity decorator with that many attempts, over an SDK with the same number of retries.
    "llama_index": lambda thing: max(1, _of_max_retries(thing) - 1),
    "openai": _of_max_retries,
    "anthropic": _of_max_retries,
    "litellm": _of_max_retries,
    "google": _google,
    # Its retries are bounded by time only.
    "mistralai": lambda thing: (
        inf if type(getattr(thing, "retry_config", None)).__name__ == "RetryConfig" else 1
    ),
}
