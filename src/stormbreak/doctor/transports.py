"""A door on the way: is it a door of that client, does anything lead past it, and is it in force."""

from collections.abc import Iterator

from stormbreak.core.presets import is_off
from stormbreak.doctor.discovery import ClientLayer
from stormbreak.doctor.findings import Finding, Severity
from stormbreak.doctor.request_path import RequestPath
from stormbreak.http.environment import is_disabled
from stormbreak.http.transports.sdk_transport import SdkTransport


def doorways(way: RequestPath) -> Iterator[Finding]:
    """What keeps a policy from being followed on one way."""
    if way.policy is not None and is_off(way.policy):
        yield _off(way)
    if way.http is not None and getattr(way.http.thing, "is_closed", False):
        yield Finding(
            severity=Severity.WRONG,
            name="closed",
            where=way.http.path,
            what="the HTTP client is closed",
            why="Whatever is asked through it fails.",
            instead="one client for the life of the process, closed at its end",
        )
    if way.door is not None:
        yield from _misplaced(way, way.door)


def bypasses(ways: list[RequestPath]) -> list[RequestPath]:
    """Those whose HTTP client has a door, but not on this way."""
    guarded = {id(way.http.thing) for way in ways if way.http and way.door}
    return [way for way in ways if way.http and not way.door and id(way.http.thing) in guarded]


def is_bypassed(way: RequestPath) -> Iterator[Finding]:
    """Say where it parts from the way through the door."""
    assert way.http is not None
    yield Finding(
        severity=Severity.WRONG,
        name="leads-past",
        where=way.chain[way.chain.index(way.http) + 1].path,
        what="a proxy or mount of the client leads past its transport of stormbreak's",
        why="What goes there is neither limited nor counted, and meets no circuit.",
        instead="AsyncTransport(proxy=...) instead of a proxy of the client's, or wrap() around a client without a door",
    )


def _off(way: RequestPath) -> Finding:
    layer = way.door or way.ours
    assert layer is not None
    disabled = is_disabled()
    return Finding(
        severity=Severity.WRONG,
        name="policy-off",
        where=f"{layer.path}.policy",
        what="every policy is off" + (", since STORMBREAK_DISABLED is set" if disabled else ""),
        why="Each call is sent once, and nothing is held back, limited or retried.",
        instead="unset STORMBREAK_DISABLED"
        if disabled
        else "the preset interactive, or one of your own",
    )


def _misplaced(way: RequestPath, layer: ClientLayer) -> Iterator[Finding]:
    door, http = layer.thing, way.http
    assert isinstance(door, SdkTransport)
    if http is None:
        return
    blocks = not hasattr(http.thing, "aclose")
    if door.library.name not in http.packages or blocks != (door.sends == "handle_request"):
        kind = "Transport" if blocks else "AsyncTransport"
        yield Finding(
            severity=Severity.WRONG,
            name="wrong-door",
            where=layer.path,
            what=f"a {type(door).__name__} of stormbreak.{door.library.name} cannot serve this client",
            why="The first call fails: the classes of httpx2 and httpx, and of sync and async clients, are unrelated.",
            instead=f"stormbreak.{way.library}.{kind}",
        )
    if door.inner is None and door.trust_env and not getattr(http.thing, "trust_env", True):
        yield Finding(
            severity=Severity.RISK,
            name="trust-env",
            where=f"{http.path}.trust_env",
            what="the client is not to trust the environment, but its transport of stormbreak's does",
            why="A transport connects by its own settings: proxies and certificates of the environment count for it.",
            instead="AsyncTransport(trust_env=False), or Transport(trust_env=False)",
        )
