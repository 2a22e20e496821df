"""From what a user has in hand (a client, a model of a framework, a decorated function) to the HTTP clients within.

Frameworks keep their clients in attributes that differ and move; the table below names them. Nothing is imported, for
what is looked at has brought its own modules along; nothing is called but properties.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from types import FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any, NamedTuple

from stormbreak.http.client import AsyncClient
from stormbreak.http.sync_client import Client
from stormbreak.http.transports.sdk_transport import SdkTransport

_MAX_DEPTH = 12
_MOST = 64  # chains that are followed

_WAYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
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
)
"""Where what is within is kept, by the package of a class."""

_UNDER = ("wrapped", "_wrapped", "transport", "_transport", "inner", "_inner", "_sync_transport", "_async_transport")  # fmt: skip
"""Where transports that wrap another keep it."""
_FUNCTIONS = ("func", "__wrapped__")
_LIBRARIES = frozenset({"httpx2", "httpx"})
_SENDS = ("handle_request", "handle_async_request")


class ClientLayer(NamedTuple):
    """A thing on the way of a request, and its path from what was given."""

    path: str
    thing: Any

    @property
    def name(self) -> str:
        """How the user's code would write it: of what a function uses, without the function."""
        return self.path.rpartition(":")[2]

    @property
    def packages(self) -> frozenset[str]:
        """The packages that its classes come from."""
        return packages_of(self.thing)


class NotBuiltYet:
    """The SDK client that llama-index makes at its first call, by the settings that it will give it."""

    def __init__(self, model: Any, http: Any) -> None:
        self.max_retries = model.max_retries
        self.timeout = model.timeout
        self.base_url = read(model, "api_base") or ""
        self.api_key = read(model, "api_key")
        self._client = http


Chain = tuple[ClientLayer, ...]
"""The layers that a request passes, the outermost first."""


def packages_of(thing: object) -> frozenset[str]:
    """The packages that the classes of a thing come from."""
    return frozenset(str(base.__module__).partition(".")[0] for base in type(thing).__mro__)


def named(thing: object) -> str:
    """The class of a thing, as its users write it."""
    kind = type(thing)
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}"


def is_known(thing: object) -> bool:
    """Whether it is of an SDK or a framework, or sends by itself."""
    ours = isinstance(thing, AsyncClient | Client | SdkTransport)
    return ours or is_http_client(thing) or bool(packages_of(thing) & _WAYS.keys())


def is_http_client(thing: object) -> bool:
    """Whether it is a client of httpx2 or httpx."""
    library = _LIBRARIES & packages_of(thing)
    return bool(library) and hasattr(thing, "_transport") and hasattr(thing, "_mounts")


def is_transport(thing: object) -> bool:
    """Whether requests of httpx2 or httpx can be sent through it."""
    return any(callable(getattr(type(thing), name, None)) for name in _SENDS)


def chains(thing: object, name: str = "client") -> list[Chain]:
    """Every way that a request can take from `thing`, which is called `name`, out.

    Ways that are lost end where they are. They are told only where no other is known, and only from what we know: in
    what is the user's own, anything may stand about.
    """
    found = list(islice(_follow((ClientLayer(name, thing),)), _MOST))
    return [one for one in found if arrives(one)] or [
        one for one in found if is_known(one[0].thing)
    ]


def arrives(way: Chain) -> bool:
    """Whether it ends where requests leave."""
    end = way[-1].thing
    return isinstance(end, AsyncClient | Client) or is_transport(end)


def _follow(way: Chain) -> Iterator[Chain]:
    seen = {id(layer.thing) for layer in way}
    further = [layer for layer in _within(way[-1]) if id(layer.thing) not in seen]
    if not further or len(way) == _MAX_DEPTH:
        yield way
        return
    for layer in further:
        yield from _follow((*way, layer))


def _within(layer: ClientLayer) -> Iterator[ClientLayer]:
    """What a request meets next; nothing where it leaves, or where nobody knows."""
    thing = layer.thing
    if isinstance(thing, AsyncClient | Client | ModuleType):
        return  # to look around in a module would import more of it
    if is_http_client(thing):
        yield ClientLayer(f"{layer.path}._transport", thing._transport)  # noqa: SLF001 - there is no public way
        for pattern, transport in thing._mounts.items():  # noqa: SLF001
            if transport is not None:  # None: the transport
                yield ClientLayer(f"{layer.path}._mounts[{pattern.pattern!r}]", transport)
    elif isinstance(thing, MethodType):
        yield ClientLayer(f"{layer.path}.__self__", thing.__self__)
    elif isinstance(thing, FunctionType | partial):
        yield from _each(layer, _FUNCTIONS)
        yield from _known(layer, ":", used_by(thing))
    elif ways := _ways(layer):
        yield from _each(layer, ways)
        yield from _unmade(layer)
    elif not is_transport(thing):  # of the user's own
        yield from _known(layer, ".", read(thing, "__dict__") or {})


def _unmade(layer: ClientLayer) -> Iterator[ClientLayer]:
    thing = layer.thing
    for kept, made, given in (
        ("_client", "_get_client()", "_http_client"),
        ("_aclient", "_get_aclient()", "_async_http_client"),
    ):
        if "llama_index" in layer.packages and hasattr(thing, kept) and not read(thing, kept):
            yield ClientLayer(f"{layer.path}.{made}", NotBuiltYet(thing, read(thing, given)))


def _ways(layer: ClientLayer) -> tuple[str, ...]:
    """The attributes in which a transport, an SDK or a framework keeps what is within."""
    if isinstance(layer.thing, SdkTransport):
        return ("inner",)
    if is_transport(layer.thing):
        own = type(layer.thing).__module__.partition(".")[0] in _LIBRARIES
        return () if own else _UNDER
    if isinstance(layer.thing, NotBuiltYet):
        return ("_client",)
    ways = (_WAYS[package] for package in _WAYS if package in layer.packages)
    return tuple(dict.fromkeys(chain.from_iterable(ways)))


def used_by(function: object) -> dict[str, Any]:
    """What a function takes from around it, by name."""
    code = getattr(function, "__code__", None)
    if code is None:
        return {}
    around = getattr(function, "__globals__", {})
    held = {name: around[name] for name in code.co_names if name in around}
    cells = getattr(function, "__closure__", None) or ()
    for name, cell in zip(code.co_freevars, cells, strict=False):
        with suppress(ValueError):  # not filled yet
            held[name] = cell.cell_contents
    return held


def _known(layer: ClientLayer, join: str, things: Mapping[str, Any]) -> Iterator[ClientLayer]:
    for name, thing in tuple(things.items()):  # of a module, they may grow when they are touched
        if not isinstance(thing, type) and is_known(thing):
            yield ClientLayer(f"{layer.path}{join}{name}", thing)


def _each(layer: ClientLayer, names: tuple[str, ...]) -> Iterator[ClientLayer]:
    for name in names:
        found = read(layer.thing, name)
        path = f"{layer.path}.{name}"
        if isinstance(found, list | tuple):
            for place, one in enumerate(found):
                yield ClientLayer(f"{path}[{place}]", one)
        elif found is not None and not isinstance(found, str | type):
            yield ClientLayer(path, found)


def read(thing: object, name: str) -> Any:
    """An attribute; None where there is none, or a property of somebody else's fails."""
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001 - whatever a stranger's property raises
        return None
