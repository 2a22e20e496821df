"""Find the HTTP clients in an object of the user: a client, a model of a framework, a decorated function.

Frameworks keep their clients in attributes that differ and move; a table below lists them. Nothing is imported, since
the object has loaded its own modules. Nothing is called except properties.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property, partial
from itertools import chain, islice
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from stormbreak.core.policy import Policy
from stormbreak.http.client import AsyncClient
from stormbreak.http.sync_client import Client
from stormbreak.http.transports.sdk_transport import SdkTransport

SDKS = frozenset({"openai", "anthropic"})
"""SDKs that stop retrying on `x-should-retry: false`, which all our final answers have."""

_MAX_DEPTH = 12
_MAX_PATHS = 64

_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "openai": ("_client",),
    "anthropic": ("_client",),
    "langchain_openai": ("root_client", "root_async_client"),
    "langchain_anthropic": ("_client", "_async_client"),
    "langchain_core": ("bound", "runnable", "fallbacks", "steps"),
    "pydantic_ai": ("model", "models", "wrapped", "client"),
    "agents": ("model", "_client"),
    "instructor": ("client",),
    "llama_index": ("_client", "_aclient"),
    "google": ("_api_client", "_httpx_client", "_async_httpx_client"),
    "mistralai": ("sdk_configuration", "client", "async_client"),
    "litellm": ("client",),
}
"""The attributes that hold the inner client, by the package of the outer class."""

_OF_TRANSPORTS = ("wrapped", "_wrapped", "transport", "_transport", "inner", "_inner", "_sync_transport", "_async_transport")  # fmt: skip
_OF_FUNCTIONS = ("func", "__wrapped__")
_LIBRARIES = frozenset({"httpx2", "httpx"})
_SEND_METHODS = ("handle_request", "handle_async_request")


class ClientLayer(NamedTuple):
    """An object that a request passes, and its path from the examined one."""

    path: str
    thing: Any

    @property
    def name(self) -> str:
        """The path as code: of an object that a function uses, without the function."""
        return self.path.rpartition(":")[2]

    @property
    def packages(self) -> frozenset[str]:
        return packages_of(self.thing)


Layers = tuple[ClientLayer, ...]  # the layers that a request passes, the outermost first


class LazyClient:
    """The SDK client that llama-index will create at its first call, with the settings it will pass."""

    def __init__(self, model: Any, http: Any) -> None:
        self.max_retries = model.max_retries
        self.timeout = model.timeout
        self.base_url = read(model, "api_base") or ""
        self.api_key = read(model, "api_key")
        self._client = http


# ---------------------------------------------------------------- kinds of objects


def packages_of(thing: object) -> frozenset[str]:
    return frozenset(str(base.__module__).partition(".")[0] for base in type(thing).__mro__)


def class_name(thing: object) -> str:
    """Return the class of an object with its package, as in user code."""
    kind = type(thing)
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}"


def is_known(thing: object) -> bool:
    """Whether it is part of an SDK or a framework, or sends requests itself."""
    ours = isinstance(thing, AsyncClient | Client | SdkTransport)
    return ours or is_http_client(thing) or bool(packages_of(thing) & _ATTRIBUTES.keys())


def is_http_client(thing: object) -> bool:
    """Whether it is a client of httpx2 or httpx."""
    library = _LIBRARIES & packages_of(thing)
    return bool(library) and hasattr(thing, "_transport") and hasattr(thing, "_mounts")


def is_transport(thing: object) -> bool:
    return any(callable(getattr(type(thing), name, None)) for name in _SEND_METHODS)


def is_sdk(layer: ClientLayer) -> bool:
    """Whether it is a client of an SDK whose retries our transport stops."""
    if isinstance(layer.thing, LazyClient):
        return True
    return (
        bool(layer.packages & SDKS)
        and not is_http_client(layer.thing)
        and isinstance(read(layer.thing, "max_retries"), int)
    )


def leaves(layers: Layers) -> bool:
    """Whether the path ends where requests are sent."""
    end = layers[-1].thing
    return isinstance(end, AsyncClient | Client) or is_transport(end)


def read(thing: object, name: str) -> Any:
    """Return an attribute; None if it does not exist or its property fails."""
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001 - a property of somebody else may raise anything
        return None


def names_used_by(function: object) -> dict[str, Any]:
    """Return the globals and closure variables that a function uses, by name."""
    code = getattr(function, "__code__", None)
    if code is None:
        return {}
    namespace = getattr(function, "__globals__", {})
    used = {name: namespace[name] for name in code.co_names if name in namespace}
    cells = getattr(function, "__closure__", None) or ()
    for name, cell in zip(code.co_freevars, cells, strict=False):
        with suppress(ValueError):  # not filled yet
            used[name] = cell.cell_contents
    return used


# ---------------------------------------------------------------- paths


class RequestPath:
    """One path of a request, from the examined object to where it is sent. Missing parts are None."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers

    @cached_property
    def transport(self) -> ClientLayer | None:
        return self._first(lambda layer: isinstance(layer.thing, SdkTransport))

    @cached_property
    def http(self) -> ClientLayer | None:
        """The client of an HTTP library."""
        return self._first(lambda layer: is_http_client(layer.thing))

    @cached_property
    def sdk(self) -> ClientLayer | None:
        """The client of openai or anthropic."""
        return self._first(is_sdk)

    @cached_property
    def pool(self) -> tuple[str, Any] | None:
        """The connection pool of an HTTP library, with its path."""
        end = self.layers[-1]
        pool = getattr(end.thing, "_pool", None)
        return None if pool is None else (f"{end.path}._pool", pool)

    @cached_property
    def _guard(self) -> ClientLayer | None:
        """Our transport or our client."""
        return self.transport or self._first(
            lambda layer: isinstance(layer.thing, AsyncClient | Client)
        )

    @property
    def policy(self) -> Policy | None:
        return None if self._guard is None else self._guard.thing.policy

    @property
    def guard_path(self) -> str:
        """The path of the object that has the policy."""
        assert self._guard is not None
        return self._guard.path

    @property
    def library(self) -> str:
        """The HTTP library: httpx for a client of the older one, else httpx2."""
        old = self.http is not None and "httpx" in self.http.packages
        return "httpx" if old else "httpx2"

    def _first(self, holds: Callable[[ClientLayer], bool]) -> ClientLayer | None:
        return next((layer for layer in self.layers if holds(layer)), None)


def find_paths(thing: object, name: str = "client") -> list[RequestPath]:
    """Return every path of a request from `thing`, which is called `name`.

    Paths that do not reach a transport count only if there is no other, and only from a known object: a user's own
    object may hold anything.
    """
    found = list(islice(_follow((ClientLayer(name, thing),)), _MAX_PATHS))
    complete = [layers for layers in found if leaves(layers)]
    kept = complete or [layers for layers in found if is_known(layers[0].thing)]
    return [RequestPath(layers) for layers in kept]


def _follow(layers: Layers) -> Iterator[Layers]:
    seen = {id(layer.thing) for layer in layers}
    further = [layer for layer in _within(layers[-1]) if id(layer.thing) not in seen]
    if not further or len(layers) == _MAX_DEPTH:
        yield layers
        return
    for layer in further:
        yield from _follow((*layers, layer))


def _within(layer: ClientLayer) -> Iterator[ClientLayer]:
    """Find the next layers; none if the request is sent here, or if they are unknown."""
    thing = layer.thing
    if isinstance(thing, AsyncClient | Client | ModuleType):
        return  # reading attributes of a module may import more of it
    if is_http_client(thing):
        yield ClientLayer(f"{layer.path}._transport", thing._transport)  # noqa: SLF001 - there is no public access
        for pattern, transport in thing._mounts.items():  # noqa: SLF001
            if transport is not None:  # None means the transport above
                yield ClientLayer(f"{layer.path}._mounts[{pattern.pattern!r}]", transport)
    elif isinstance(thing, MethodType):
        yield ClientLayer(f"{layer.path}.__self__", thing.__self__)
    elif isinstance(thing, FunctionType | partial):
        yield from _in_attributes(layer, _OF_FUNCTIONS)
        yield from _known_among(layer, ":", names_used_by(thing))
    elif attributes := _attributes_of(layer):
        yield from _in_attributes(layer, attributes)
        yield from _lazy_clients(layer)
    elif not is_transport(thing):  # a user's object
        yield from _known_among(layer, ".", read(thing, "__dict__") or {})


def _lazy_clients(layer: ClientLayer) -> Iterator[ClientLayer]:
    thing = layer.thing
    for attribute, method, http in (
        ("_client", "_get_client()", "_http_client"),
        ("_aclient", "_get_aclient()", "_async_http_client"),
    ):
        missing = hasattr(thing, attribute) and not read(thing, attribute)
        if "llama_index" in layer.packages and missing:
            yield ClientLayer(f"{layer.path}.{method}", LazyClient(thing, read(thing, http)))


def _attributes_of(layer: ClientLayer) -> tuple[str, ...]:
    """The attributes in which a transport, an SDK or a framework keeps the next layer."""
    if isinstance(layer.thing, SdkTransport):
        return ("inner",)
    if is_transport(layer.thing):
        own = type(layer.thing).__module__.partition(".")[0] in _LIBRARIES
        return () if own else _OF_TRANSPORTS
    if isinstance(layer.thing, LazyClient):
        return ("_client",)
    names = (_ATTRIBUTES[package] for package in _ATTRIBUTES if package in layer.packages)
    return tuple(dict.fromkeys(chain.from_iterable(names)))


def _in_attributes(layer: ClientLayer, names: tuple[str, ...]) -> Iterator[ClientLayer]:
    for name in names:
        found = read(layer.thing, name)
        path = f"{layer.path}.{name}"
        if isinstance(found, list | tuple):
            for place, one in enumerate(found):
                yield ClientLayer(f"{path}[{place}]", one)
        elif found is not None and not isinstance(found, str | type):
            yield ClientLayer(path, found)


def _known_among(layer: ClientLayer, join: str, things: Mapping[str, Any]) -> Iterator[ClientLayer]:
    for name, thing in tuple(things.items()):  # reading a module's attributes may add more
        if not isinstance(thing, type) and is_known(thing):
            yield ClientLayer(f"{layer.path}{join}{name}", thing)
