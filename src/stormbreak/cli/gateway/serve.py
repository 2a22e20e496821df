"""`stormbreak gateway FILE`: serve, or check what would be served."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import click

from stormbreak.cli.command import flag, option, options, subcommand
from stormbreak.cli.options import FILE, PORT, Integer
from stormbreak.cli.output import say, warn
from stormbreak.config.gateway_settings import GatewaySettings
from stormbreak.core.tenant import TenantLimits
from stormbreak.cost.price_source import PriceOf
from stormbreak.drivers.garbage import collect_less_often
from stormbreak.escape import LABEL, shown
from stormbreak.gateway.keys import ClientKey
from stormbreak.gateway.lifecycle import Lifecycle
from stormbreak.gateway.logs import log_to_stderr
from stormbreak.gateway.parent import GatewayParent
from stormbreak.gateway.process import Gateway, check, with_options
from stormbreak.gateway.routing import GatewayRules
from stormbreak.http.endpoint import is_loopback
from stormbreak.http.h1.server import new_loop
from stormbreak.toml_reader import word_of

MAX_WORKERS = 128
_SPANS = (("hour", 3600.0), ("minute", 60.0))


@subcommand(
    "stormbreak gateway gateway.toml",
    "stormbreak gateway gateway.toml --host 0.0.0.0 --port 8080 --workers 4",
    "stormbreak gateway gateway.toml --check",
)
@click.argument("file", type=FILE, metavar="FILE")
@options(
    "Options",
    option("--host", "ADDRESS", "Address to listen on.", show_default="that of FILE, 127.0.0.1"),
    option("--port", PORT, "Port to listen on; 0 picks a free one.", show_default="8080"),
    option("--admin-host", "ADDRESS", "Address of the admin port.", show_default="127.0.0.1"),
    option(
        "--admin-port", PORT, "Port of /live, /ready, /metrics and /state.", show_default="9464"
    ),
    option("--workers", Integer(1, MAX_WORKERS), "Serve in N processes.", default=1),
    flag("--check only_check", "Check FILE, print what each key may do, and exit."),
)
def command(
    file: Path,
    *,
    host: str | None,
    port: int | None,
    admin_host: str | None,
    admin_port: int | None,
    workers: int,
    only_check: bool,
) -> None:
    """Serve the APIs of OpenAI and Anthropic on the targets and pools of FILE.

    FILE is a settings file with [gateway] and [keys.NAME]. SIGHUP, or a change of FILE, reloads it; SIGTERM shuts down
    gracefully.
    """
    change = partial(
        with_options, host=host, port=port, admin_host=admin_host, admin_port=admin_port
    )
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_check(file) if only_check else _serve(file, change, workers))


async def _check(file: Path) -> None:
    say("\n".join(_summarise(*check(file))))
    say(f"{file}: ok")


async def _serve(
    file: Path, change: Callable[[GatewaySettings], GatewaySettings], workers: int
) -> None:
    with log_to_stderr() as write_line:
        gateway: Lifecycle
        if workers == 1:
            gateway = Gateway(file, change, write_line=write_line)
        else:
            gateway = GatewayParent(file, change, workers=workers)
        for name in ("host", "admin_host"):
            address = getattr(gateway.settings, name)
            if not is_loopback(address):
                warn(
                    f"{name} {address} is open to other machines: put a proxy with TLS in front,"
                    " since keys are sent in clear text"
                )
        await gateway.run(_started)


def _started(gateway: Lifecycle) -> None:
    collect_less_often()
    settings = gateway.settings
    say(f"listening on {_url(settings.host, gateway.port)}")
    if gateway.admin_port is not None:
        say(f"admin on {_url(settings.admin_host, gateway.admin_port)}")


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _summarise(rules: GatewayRules, price_of: PriceOf) -> Iterator[str]:
    settings = rules.generation.settings
    for model, name in {**rules.leads, **rules.settings.models}.items():
        kind = "target" if name in settings.targets else "pool"
        yield f"Model {model} leads to the {kind} {name}."
    for key in rules.keys.values():
        yield " ".join((*_of_key(key), *_unpriced(rules, key, price_of)))


def _of_key(key: ClientKey) -> Iterator[str]:
    settings = key.settings
    names = "all of them" if settings.models is None else _several(settings.models) or "none"
    yield f"Key {key.name} may ask for {names}."
    yield f"At most {_limits(settings)}." if settings.acts else "It has no limits of its own."
    for holder in key.holders:
        if holder.kind == "tenant":
            yield f"All keys of tenant {holder.name} together: at most {_limits(holder.limits)}."
    if settings.deadline is not None:
        yield f"Its calls end within {_seconds(settings.deadline)}."
    if settings.priority is not None:
        yield f"Its priority is {word_of(settings.priority)}."


def _unpriced(rules: GatewayRules, key: ClientKey, price_of: PriceOf) -> Iterator[str]:
    """Report targets whose spend limit allows no call."""
    if key.spends:
        for each in rules.targets(key):
            if price_of(each.provider, each.model) is None:
                place = f"{shown(each.model, LABEL)} at {shown(each.provider, LABEL)}"
                yield f"No price is known for {place}: its spend limit allows no call there."


def _seconds(span: float) -> str:
    """Format a duration in the largest unit that divides it: 600 is "10 minutes", 90 is "90 s"."""
    for name, length in _SPANS:
        count = span / length
        if count >= 1 and count == int(count):
            return f"1 {name}" if count == 1 else f"{int(count):,} {name}s"
    return f"{span:g} s"


def _several(words: Iterable[str]) -> str:
    """Format a list: "504", "throttled and timeout"."""
    *others, last = [*words] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def _per(period: float | str | None) -> str:
    if isinstance(period, str):
        return f" in each {period} (UTC)"
    return " in all" if period is None else f" in {_seconds(period)}"


def _limits(limits: TenantLimits) -> str:
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
        found[-1] += _per(spend.period)
    return _several(found)
